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
 },
 "ComfyUI was restarted.": {
  "zh": "ComfyUI 已重新启动。",
  "ja": "ComfyUI が再起動されました。"
 },
 "({count} more)": {
  "zh": "（另有 {count} 条）",
  "ja": "（ほか {count} 件）"
 },
 "notes {count}": {
  "zh": "说明 {count}",
  "ja": "メモ {count}"
 },
 "Waiting for the first update": {
  "zh": "等待第一次更新",
  "ja": "最初の更新を待っています"
 },
 "The losses appear here while this node trains": {
  "zh": "此节点训练时，损失显示在这里",
  "ja": "このノードの学習中、損失がここに表示されます"
 },
 "What the stage has noticed so far": {
  "zh": "本阶段到目前为止注意到的事",
  "ja": "このステージがこれまでに気づいたこと"
 },
 "log axis": {
  "zh": "对数轴",
  "ja": "対数軸"
 },
 "Logarithmic axis for the losses": {
  "zh": "损失使用对数坐标轴",
  "ja": "損失の軸を対数にします"
 },
 "copy numbers": {
  "zh": "复制数值",
  "ja": "数値をコピー"
 },
 "Copy all numbers of this run as a table, for a spreadsheet": {
  "zh": "把本次运行的所有数值复制为表格，供电子表格使用",
  "ja": "この実行の全数値を表としてコピーします（表計算用）"
 },
 "go on to the end": {
  "zh": "继续到最后",
  "ja": "最後まで続ける"
 },
 "Queue the graph again; this run then goes on from where it was finished to its last update": {
  "zh": "再次将工作流加入队列；本次运行会从结束处继续到最后一次更新",
  "ja": "ワークフローをもう一度キューに入れます。この実行は、終了した所から最後の更新まで続きます"
 },
 "best": {
  "zh": "最佳",
  "ja": "最良"
 },
 "start": {
  "zh": "起点",
  "ja": "開始"
 },
 "values of 0 and below are not shown": {
  "zh": "不显示 0 及以下的值",
  "ja": "0 以下の値は表示されません"
 },
 "warm-up of the discriminator": {
  "zh": "判别器的预热",
  "ja": "識別器のウォームアップ"
 },
 "warm-up": {
  "zh": "预热",
  "ja": "ウォームアップ"
 },
 "update {step}": {
  "zh": "更新 {step}",
  "ja": "更新 {step}"
 },
 "finish now": {
  "zh": "现在结束",
  "ja": "ここで終了"
 },
 "End this stage after this update. The rest of the graph takes what there is.": {
  "zh": "在这次更新之后结束本阶段。工作流的其余部分使用已有的结果。",
  "ja": "この更新の後でステージを終えます。ワークフローの残りは、そこまでの結果を使います。"
 },
 "checkpoint now": {
  "zh": "写检查点",
  "ja": "チェックポイント"
 },
 "Write a checkpoint now, to go on from or to try its LoRA": {
  "zh": "现在写一个检查点，可从它继续，也可试用其中的 LoRA",
  "ja": "いまチェックポイントを書きます。そこから再開することも、中の LoRA を試すこともできます"
 },
 "preview now": {
  "zh": "立即预览",
  "ja": "プレビュー"
 },
 "Sample a preview now": {
  "zh": "现在采样一次预览",
  "ja": "いまプレビューをサンプリングします"
 },
 "copy path": {
  "zh": "复制路径",
  "ja": "パスをコピー"
 },
 "Copy the path of this run's folder, and show it": {
  "zh": "复制本次运行的文件夹路径并显示",
  "ja": "この実行のフォルダのパスをコピーし、表示します"
 },
 "The stage ends after this update. The graph then goes on with what there is.": {
  "zh": "本阶段在这次更新之后结束。工作流随后用已有的结果继续。",
  "ja": "ステージはこの更新の後で終わります。ワークフローはそこまでの結果で続きます。"
 },
 "A checkpoint is written after this update.": {
  "zh": "这次更新之后会写一个检查点。",
  "ja": "この更新の後でチェックポイントが書かれます。"
 },
 "A preview is sampled after this update.": {
  "zh": "这次更新之后会采样一次预览。",
  "ja": "この更新の後でプレビューがサンプリングされます。"
 },
 "The diffusion stage that is training": {
  "zh": "正在训练的扩散阶段",
  "ja": "学習中の拡散ステージ"
 },
 "The adversarial stage that is training": {
  "zh": "正在训练的对抗阶段",
  "ja": "学習中の敵対的ステージ"
 },
 "Copied: {path}": {
  "zh": "已复制：{path}",
  "ja": "コピーしました：{path}"
 },
 "sure? finish": {
  "zh": "确定结束？",
  "ja": "本当に終了？"
 },
 "ComfyUI does not answer: {why}": {
  "zh": "ComfyUI 没有应答：{why}",
  "ja": "ComfyUI が応答しません：{why}"
 },
 "not run yet": {
  "zh": "尚未运行",
  "ja": "未実行"
 },
 "running": {
  "zh": "运行中",
  "ja": "実行中"
 },
 "finished": {
  "zh": "已完成",
  "ja": "完了"
 },
 "stopped": {
  "zh": "已停止",
  "ja": "停止"
 },
 "failed": {
  "zh": "失败",
  "ja": "失敗"
 },
 "Training chart of the diffusion stage: {state}": {
  "zh": "扩散阶段的训练图表：{state}",
  "ja": "拡散ステージの学習グラフ：{state}"
 },
 "Training chart of the adversarial stage: {state}": {
  "zh": "对抗阶段的训练图表：{state}",
  "ja": "敵対的ステージの学習グラフ：{state}"
 },
 "warm-up {warmup} + {steps}": {
  "zh": "预热 {warmup} + {steps}",
  "ja": "ウォームアップ {warmup} + {steps}"
 },
 "update {step}/{total}": {
  "zh": "更新 {step}/{total}",
  "ja": "更新 {step}/{total}"
 },
 "ETA {time}": {
  "zh": "剩余 {time}",
  "ja": "残り {time}"
 },
 "{count} images": {
  "zh": "{count} 张图片",
  "ja": "画像 {count} 枚"
 },
 "peak {memory}": {
  "zh": "峰值 {memory}",
  "ja": "ピーク {memory}"
 },
 "best: {place}, score {score}": {
  "zh": "最佳：{place}，评分 {score}",
  "ja": "最良：{place}、スコア {score}"
 },
 "(start {score})": {
  "zh": "（起点 {score}）",
  "ja": "（開始時 {score}）"
 },
 "lowest held-out flow loss: {place}, {loss}": {
  "zh": "最低留出流损失：{place}，{loss}",
  "ja": "検証用フロー損失の最小：{place}、{loss}"
 },
 "Reused: this run was finished early, at update {early} of {total}. It can go on to the end; another seed trains anew.": {
  "zh": "沿用：本次运行曾提前结束于更新 {early}/{total}。它可以继续到最后；换一个种子则重新训练。",
  "ja": "再利用：この実行は更新 {early}/{total} で早めに終了しています。最後まで続けられます。別のシードなら新しく学習します。"
 },
 "Reused: the same run was finished before. Another setting or seed trains anew.": {
  "zh": "沿用：相同的运行此前已完成。改变设置或种子则重新训练。",
  "ja": "再利用：同じ実行がすでに完了しています。設定かシードを変えると新しく学習します。"
 },
 "Finished early, at update {early} of {total}. It can go on to the end.": {
  "zh": "提前结束于更新 {early}/{total}。它可以继续到最后。",
  "ja": "更新 {early}/{total} で早めに終了しました。最後まで続けられます。"
 },
 "update {step} of {total}": {
  "zh": "更新 {step}/{total}",
  "ja": "更新 {step}/{total}"
 },
 "the start": {
  "zh": "起点",
  "ja": "開始時"
 },
 "The run does not go on": {
  "zh": "运行没有继续",
  "ja": "実行は続きませんでした"
 },
 "The server does not remember this run. Its numbers are in its folder, in stats.jsonl.": {
  "zh": "服务器不记得这次运行。它的数值在其文件夹的 stats.jsonl 中。",
  "ja": "サーバーはこの実行を覚えていません。数値は実行のフォルダの stats.jsonl にあります。"
 },
 "copied": {
  "zh": "已复制",
  "ja": "コピーしました"
 },
 "The numbers are not copied": {
  "zh": "数值没有复制",
  "ja": "数値はコピーされませんでした"
 },
 "Run goes on before all was checked": {
  "zh": "未检查完即开始运行",
  "ja": "確認が終わる前に実行を始めました"
 },
 "Read only.": {
  "zh": "只读。",
  "ja": "読み取り専用。"
 },
 "caption_rule makes the captions: {rule}.": {
  "zh": "标注由 caption_rule 生成：{rule}。",
  "ja": "キャプションは caption_rule が作ります：{rule}。"
 },
 "These pictures come with the pack. Put your own into a new folder.": {
  "zh": "这些图片随节点包提供。请把自己的图片放进新文件夹。",
  "ja": "この画像はパックに付属するものです。自分の画像は新しいフォルダーに入れてください。"
 },
 "{name}: {count} changed": {
  "zh": "{name}：已更改 {count} 项",
  "ja": "{name}：{count} 項目を変更"
 }
};
