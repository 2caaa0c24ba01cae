"""What the nodes say in other languages: the files that the host serves to its page, made from tables of translations.

A table holds a translation for each English text. So a text that changes has none until somebody has written it, and no
text is translated twice. ``python -m fluxduel.tests.host.locales`` writes the files anew from a running host, takes out
of the tables what no node says any more, and prints what is missing.

English has no file: it would replace the nodes' own words.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fluxduel.tests.comfy_host import ROOT, ComfyHost

LANGUAGES = ("zh", "ja")
TABLES = Path(__file__).with_name("translations")
# One word for one thing: what it is called wherever the English says it, in Chinese and in Japanese.
TERMS = {
    "stage 1": ("阶段 1", "ステージ 1"),
    "stage 2": ("阶段 2", "ステージ 2"),
    "option node": ("选项节点", "オプションノード"),
    "training node": ("训练节点", "学習ノード"),
    "base": ("底模", "ベースモデル"),
    "discriminator": ("判别器", "識別器"),
    "latent": ("Latent", "潜在"),
    "flow loss": ("流损失", "フロー損失"),
    "adversarial loss": ("对抗损失", "敵対的損失"),
    "updates": ("更新", "更新"),
    "held-out": ("留出", "検証用"),
    "held out": ("留出", "検証用"),
    "noise level": ("噪声级别", "ノイズレベル"),
    "guidance embedding": ("引导嵌入", "ガイダンス埋め込み"),
    "sampler": ("采样器", "サンプラー"),
    "scheduler": ("调度器", "スケジューラー"),
    "caption": ("标注", "キャプション"),
    "bucket": ("分桶", "バケット"),
    "mask": ("遮罩", "マスク"),
    "prompt": ("提示词", "プロンプト"),
    "preview": ("预览", "プレビュー"),
    "seed of": ("种子", "シード"),
    "learning rate": ("学习率", "学習率"),
    "weight decay": ("权重衰减", "重み減衰"),
    "penalty": ("惩罚", "ペナルティ"),
    "running average": ("滑动平均", "移動平均"),
}


def table(language: str) -> dict[str, str]:
    """English text -> translation."""
    return json.loads((TABLES / f"{language}.json").read_text(encoding="utf-8"))


def served(language: str) -> Path:
    """The file that the host merges into what it gives to its page."""
    return ROOT / "locales" / language / "nodeDefs.json"


def written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def said(info: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(place in a file of translations, English text) of everything that the host tells about the nodes ``info``."""
    for node, declared in sorted(info.items()):
        yield (node, "display_name"), declared["display_name"]
        yield (node, "description"), declared["description"]
        for section in ("required", "optional"):
            for name, (_, *options) in declared["input"].get(section, {}).items():
                yield (node, "inputs", name, "tooltip"), options[0]["tooltip"]
        for place, tooltip in enumerate(declared["output_tooltips"]):
            yield (node, "outputs", str(place), "tooltip"), tooltip


def translated(info: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """The contents of a ``nodeDefs.json``; what ``words`` lacks is left out, and stays English on the page."""
    found: dict[str, Any] = {}
    for places, text in said(info):
        if text in words:
            part = found
            for place in places[:-1]:
                part = part.setdefault(place, {})
            part[places[-1]] = words[text]
    return found


def ours(host: ComfyHost) -> dict[str, Any]:
    """The host's descriptions of the pack's nodes."""
    return {name: node for name, node in host.object_info().items() if name.startswith("FluxDuel")}


def main() -> None:
    with tempfile.TemporaryDirectory() as base, ComfyHost(Path(base)) as host:
        info = ours(host)
    texts = dict.fromkeys(text for _, text in said(info))
    missing = {language: [text for text in texts if text not in table(language)] for language in LANGUAGES}
    for language in LANGUAGES:
        words = table(language)
        (TABLES / f"{language}.json").write_text(
            written({text: words[text] for text in texts if text in words}), encoding="utf-8"
        )
        served(language).parent.mkdir(parents=True, exist_ok=True)
        served(language).write_text(written(translated(info, words)), encoding="utf-8")
    if any(missing.values()):
        sys.exit("Not translated yet; write it into tests/host/translations and run this again:\n" + written(missing))


if __name__ == "__main__":
    main()
