// @ts-check
/** What the pack's scripts say in other languages than English, by the English text. */

/** @type {Record<string, Record<string, string>>} */
export const TRANSLATIONS = {
 "flow loss": {
  "zh": "流损失",
  "ja": "フロー損失"
 },
 "held-out flow loss": {
  "zh": "留出流损失",
  "ja": "検証用フロー損失"
 },
 "adversarial loss": {
  "zh": "对抗损失",
  "ja": "敵対的損失"
 },
 "discriminator loss": {
  "zh": "判别器损失",
  "ja": "識別器損失"
 },
 "score": {
  "zh": "评分",
  "ja": "スコア"
 },
 "diversity": {
  "zh": "多样性",
  "ja": "多様性"
 },
 "high frequencies": {
  "zh": "高频",
  "ja": "高周波"
 },
 "accuracy on real": {
  "zh": "真实样本准确率",
  "ja": "本物の正解率"
 },
 "accuracy on fake": {
  "zh": "生成样本准确率",
  "ja": "偽物の正解率"
 },
 "pair accuracy": {
  "zh": "成对准确率",
  "ja": "ペア正解率"
 }
};
