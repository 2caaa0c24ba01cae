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
 "The path is not copied": {
  "zh": "路径未复制",
  "ja": "パスはコピーされませんでした"
 },
 "cancelling": {
  "zh": "正在取消",
  "ja": "キャンセル中"
 },
 "Cancelled: the stage ends once this update is done, and what it has learned is kept.": {
  "zh": "已取消：本次更新完成后该阶段结束，已学到的内容会保留。",
  "ja": "キャンセルしました：この更新が終わるとステージは終了し、学習した内容は残ります。"
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
 "delivered: {place}": {
  "zh": "已交付：{place}",
  "ja": "渡した状態：{place}"
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
 },
 "Presets": {
  "zh": "预设",
  "ja": "プリセット"
 },
 "What is learned": {
  "zh": "学习的内容",
  "ja": "何を学ぶか"
 },
 "How it is sampled": {
  "zh": "采样方式",
  "ja": "どうサンプリングするか"
 },
 "The card, for a real FLUX": {
  "zh": "显卡（用于真正的 FLUX）",
  "ja": "GPU（本物の FLUX 用）"
 },
 "style": {
  "zh": "风格",
  "ja": "スタイル"
 },
 "character": {
  "zh": "角色",
  "ja": "キャラクター"
 },
 "texture": {
  "zh": "质感",
  "ja": "質感"
 },
 "few steps": {
  "zh": "少步数",
  "ja": "少ないステップ"
 },
 "many steps": {
  "zh": "多步数",
  "ja": "多いステップ"
 },
 "both": {
  "zh": "两者",
  "ja": "両方"
 },
 "A way of drawing, from a few dozen pictures. Stage 2 holds to what stage 1 has learned, at guidance 3.5.": {
  "zh": "一种画法，来自几十张图片。阶段 2 以 guidance 3.5 守住阶段 1 学到的内容。",
  "ja": "描き方。数十枚の画像から学びます。ステージ 2 は guidance 3.5 で、ステージ 1 が学んだことを保ちます。"
 },
 "A person, a thing or an animal. Shorter, and gentler in stage 2, which must not change who it is.": {
  "zh": "人、物或动物。更短，阶段 2 更温和，因为不能改变其身份。",
  "ja": "人、物、動物。短めで、ステージ 2 は穏やかです。誰であるかを変えてはならないからです。"
 },
 "Surfaces and materials, from a hundred pictures or more. Where stage 2 does most: it sharpens.": {
  "zh": "表面和材质，来自一百张以上的图片。阶段 2 在这里作用最大：使其更锐利。",
  "ja": "表面や素材。百枚以上の画像から学びます。ステージ 2 が最も効くところで、鮮鋭になります。"
 },
 "For 4 sampling steps.": {
  "zh": "用于 4 步采样。",
  "ja": "サンプリング 4 ステップ用。"
 },
 "For 20 sampling steps and more.": {
  "zh": "用于 20 步及以上的采样。",
  "ja": "サンプリング 20 ステップ以上用。"
 },
 "One LoRA for both: prompts for few steps begin with few_step_phrase. Practice prompts are then left out.": {
  "zh": "一个 LoRA 兼顾两者：少步数的提示词以 few_step_phrase 开头。此时不使用练习提示词。",
  "ja": "1 つの LoRA で両方に対応します。少ないステップ用のプロンプトは few_step_phrase で始めます。練習用プロンプトは使いません。"
 },
 "512 pixels, one picture at a time. What is streamed is planned when a stage starts.": {
  "zh": "512 像素，每次一张图片。分块传输在阶段开始时规划。",
  "ja": "512 ピクセル、一度に 1 枚。ストリーミングする分はステージの開始時に計画されます。"
 },
 "768 pixels, one picture at a time.": {
  "zh": "768 像素，每次一张图片。",
  "ja": "768 ピクセル、一度に 1 枚。"
 },
 "1024 pixels, one picture at a time.": {
  "zh": "1024 像素，每次一张图片。",
  "ja": "1024 ピクセル、一度に 1 枚。"
 },
 "Now {changes}.": {
  "zh": "现在：{changes}。",
  "ja": "現在：{changes}。"
 },
 "All was so already.": {
  "zh": "原本就是如此。",
  "ja": "すでにそのとおりでした。"
 },
 "Not found in front of this node, to be set by hand: {missing}.": {
  "zh": "在此节点之前没有找到，需手动设置：{missing}。",
  "ja": "このノードの前に見つからないため、手で設定してください：{missing}。"
 },
 "Preset {name}": {
  "zh": "预设 {name}",
  "ja": "プリセット {name}"
 },
 "Close (Escape)": {
  "zh": "关闭（Escape）",
  "ja": "閉じる（Escape）"
 },
 "Ctrl+Enter saves": {
  "zh": "Ctrl+Enter 保存",
  "ja": "Ctrl+Enter で保存"
 },
 "{size} pixels": {
  "zh": "{size} 像素",
  "ja": "{size} ピクセル"
 },
 "bucket {size}": {
  "zh": "分桶 {size}",
  "ja": "バケット {size}"
 },
 "held out": {
  "zh": "留出",
  "ja": "検証用"
 },
 "mask {name}": {
  "zh": "遮罩 {name}",
  "ja": "マスク {name}"
 },
 "trained as: {caption}": {
  "zh": "训练时为：{caption}",
  "ja": "学習時：{caption}"
 },
 "Describe the picture. It is saved beside it as a .txt file.": {
  "zh": "描述这张图片。内容以 .txt 文件保存在图片旁边。",
  "ja": "画像を説明してください。隣に .txt ファイルとして保存されます。"
 },
 "Caption of {name}": {
  "zh": "{name} 的标注",
  "ja": "{name} のキャプション"
 },
 "saved": {
  "zh": "已保存",
  "ja": "保存しました"
 },
 "Changed elsewhere to “{text}”. Save again to write over it.": {
  "zh": "已在别处改为“{text}”。再次保存将覆盖它。",
  "ja": "別の場所で「{text}」に変更されました。もう一度保存すると上書きします。"
 },
 "The server answered with {status}.": {
  "zh": "服务器应答 {status}。",
  "ja": "サーバーの応答は {status} でした。"
 },
 "Add pictures": {
  "zh": "添加图片",
  "ja": "画像を追加"
 },
 "Pictures, and captions (.txt) and masks of the same names": {
  "zh": "图片，以及同名的标注（.txt）和遮罩",
  "ja": "画像と、同じ名前のキャプション（.txt）やマスク"
 },
 "New folder": {
  "zh": "新建文件夹",
  "ja": "新しいフォルダ"
 },
 "In ComfyUI's input folder": {
  "zh": "在 ComfyUI 的 input 文件夹中",
  "ja": "ComfyUI の input フォルダの中"
 },
 "Name of the new folder:": {
  "zh": "新文件夹的名称：",
  "ja": "新しいフォルダの名前："
 },
 "Training pictures": {
  "zh": "训练图片",
  "ja": "学習画像"
 },
 "{count} without caption": {
  "zh": "{count} 张没有标注",
  "ja": "キャプションなし {count} 枚"
 },
 "{count} without mask": {
  "zh": "{count} 张没有遮罩",
  "ja": "マスクなし {count} 枚"
 },
 "{count} with repeats": {
  "zh": "含重复共 {count}",
  "ja": "繰り返し込み {count}"
 },
 "1 picture": {
  "zh": "1 张图片",
  "ja": "画像 1 枚"
 },
 "{count} pictures": {
  "zh": "{count} 张图片",
  "ja": "画像 {count} 枚"
 },
 "Drop pictures here, each with its caption in a .txt file of the same name.": {
  "zh": "把图片拖到这里，每张的标注放在同名的 .txt 文件中。",
  "ja": "ここに画像をドロップしてください。キャプションは同じ名前の .txt ファイルに入れます。"
 },
 "The crop takes {share} % of it": {
  "zh": "裁剪去掉了 {share} %",
  "ja": "切り抜きで {share} % が失われます"
 },
 "It is enlarged {times} times, which teaches blur": {
  "zh": "放大了 {times} 倍，会学到模糊",
  "ja": "{times} 倍に拡大され、ぼけを学んでしまいます"
 },
 "Not trained on, to measure with": {
  "zh": "不参与训练，用于测量",
  "ja": "学習には使わず、測定に使います"
 },
 "Width and height of its bucket, in pixels": {
  "zh": "其分桶的宽和高（像素）",
  "ja": "バケットの幅と高さ（ピクセル）"
 },
 "mask": {
  "zh": "遮罩",
  "ja": "マスク"
 },
 "The dimmed parts are not learned": {
  "zh": "变暗的部分不参与学习",
  "ja": "暗い部分は学習されません"
 },
 "How often it comes, by its folder's name": {
  "zh": "出现的次数，由文件夹名决定",
  "ja": "フォルダ名による繰り返し回数"
 },
 "no caption": {
  "zh": "没有标注",
  "ja": "キャプションなし"
 },
 "empty caption": {
  "zh": "标注为空",
  "ja": "空のキャプション"
 },
 "Name of the new folder": {
  "zh": "新文件夹的名称",
  "ja": "新しいフォルダの名前"
 },
 "Make": {
  "zh": "创建",
  "ja": "作成"
 },
 "Make this folder in ComfyUI's input folder": {
  "zh": "在 ComfyUI 的 input 文件夹中创建此文件夹",
  "ja": "ComfyUI の input フォルダの中に作成します"
 },
 "Replace": {
  "zh": "替换",
  "ja": "置き換え"
 },
 "Write over the files that are there": {
  "zh": "覆盖已有的文件",
  "ja": "既にあるファイルを上書きします"
 },
 "Leave": {
  "zh": "保留",
  "ja": "そのまま"
 },
 "Keep the files that are there": {
  "zh": "保留已有的文件",
  "ja": "既にあるファイルを残します"
 },
 "A folder for the new files ({count}):": {
  "zh": "存放新文件的文件夹（{count} 个）：",
  "ja": "新しいファイル用のフォルダ（{count} 個）："
 },
 "Adding {next} of {count}": {
  "zh": "正在添加 {next}/{count}",
  "ja": "追加中 {next}/{count}"
 },
 "Files added: {count}.": {
  "zh": "已添加文件：{count}。",
  "ja": "追加したファイル：{count}。"
 },
 "Already there: {count}.": {
  "zh": "原已存在：{count}。",
  "ja": "既にあったもの：{count}。"
 },
 "And {count} more that were not added.": {
  "zh": "另有 {count} 个没有添加。",
  "ja": "ほか {count} 個は追加されませんでした。"
 },
 "Another {names} is there already.": {
  "zh": "已有另一个 {names}。",
  "ja": "別の {names} が既にあります。"
 },
 "{count} others of the same names ({names}…) are there already.": {
  "zh": "已有 {count} 个同名的其他文件（{names}…）。",
  "ja": "同じ名前の別のファイルが {count} 個（{names}…）既にあります。"
 },
 "Cancel": {
  "zh": "取消",
  "ja": "キャンセル"
 },
 "(no prompt)": {
  "zh": "（无提示词）",
  "ja": "（プロンプトなし）"
 },
 "All of this run's previews, large. The file is in the run's folder: previews/sheet.png": {
  "zh": "放大显示本次运行的全部预览。文件在运行文件夹中：previews/sheet.png",
  "ja": "この実行のすべてのプレビューを大きく表示します。ファイルは実行フォルダーの previews/sheet.png です"
 },
 "All pictures of the comparison": {
  "zh": "对比的全部图片",
  "ja": "比較のすべての画像"
 },
 "All pictures of this run on one sheet, large": {
  "zh": "把本次运行的全部图片放在一张大图上",
  "ja": "この実行のすべての画像を 1 枚に大きく表示"
 },
 "Column at the left": {
  "zh": "左侧的列",
  "ja": "左の列"
 },
 "Column at the right": {
  "zh": "右侧的列",
  "ja": "右の列"
 },
 "Line between the two pictures": {
  "zh": "两张图片之间的分界线",
  "ja": "2 枚の画像の境界線"
 },
 "LoRA at the left": {
  "zh": "左侧的 LoRA",
  "ja": "左の LoRA"
 },
 "LoRA at the right": {
  "zh": "右侧的 LoRA",
  "ja": "右の LoRA"
 },
 "Pictures that this LoRA makes appear here, every preview_every updates": {
  "zh": "该 LoRA 生成的图片会显示在这里，每 preview_every 次更新一次",
  "ja": "この LoRA が作る画像が、preview_every 回の更新ごとにここに表示されます"
 },
 "Previews: updates across, prompts down": {
  "zh": "预览：横向为更新，纵向为提示词",
  "ja": "プレビュー：横に更新、縦にプロンプト"
 },
 "Run the graph to wipe any two of its pictures over each other here.": {
  "zh": "运行工作流后，可在这里用滑动线对比任意两张图片。",
  "ja": "ワークフローを実行すると、ここで任意の 2 枚の画像をワイプで比べられます。"
 },
 "The wipe over the whole page": {
  "zh": "在整个页面上滑动对比",
  "ja": "ページ全体でワイプ比較"
 },
 "This node reports here once it has run.": {
  "zh": "该节点运行后会在这里报告。",
  "ja": "このノードは実行後にここで報告します。"
 },
 "This picture is no longer there: ComfyUI was restarted. Run the graph again.": {
  "zh": "这张图片已不存在：ComfyUI 重启过。请再次运行工作流。",
  "ja": "この画像はもうありません：ComfyUI が再起動されました。もう一度ワークフローを実行してください。"
 },
 "Update of the previews": {
  "zh": "预览所在的更新",
  "ja": "プレビューの更新"
 },
 "Wipe between two pictures": {
  "zh": "两张图片的滑动对比",
  "ja": "2 枚の画像のワイプ"
 },
 "before training": {
  "zh": "训练前",
  "ja": "学習前"
 },
 "close": {
  "zh": "关闭",
  "ja": "閉じる"
 },
 "enlarge": {
  "zh": "放大",
  "ja": "拡大"
 },
 "larger": {
  "zh": "放大",
  "ja": "大きく"
 },
 "left": {
  "zh": "左",
  "ja": "左"
 },
 "new tab": {
  "zh": "新标签页",
  "ja": "新しいタブ"
 },
 "none yet": {
  "zh": "尚无",
  "ja": "まだなし"
 },
 "right": {
  "zh": "右",
  "ja": "右"
 },
 "smaller": {
  "zh": "缩小",
  "ja": "小さく"
 },
 "whole": {
  "zh": "全图",
  "ja": "全体"
 },
 "whole sheet": {
  "zh": "完整对比图",
  "ja": "全体シート"
 },
 "{named}, cannot be shown": {
  "zh": "{named}，无法显示",
  "ja": "{named}、表示できません"
 },
 "{name}: none here": {
  "zh": "{name}：此处没有",
  "ja": "{name}：ここにはありません"
 },
 "{share}% {left}, the rest {right}": {
  "zh": "{share}% 为 {left}，其余为 {right}",
  "ja": "{share}% は {left}、残りは {right}"
 }
};
