"""How well the pack's own texts stand out from their ground: WCAG 2's contrast, from 1 (none) to 21."""

from __future__ import annotations

from fluxduel.tests.browser.editor import Editor

# A node of the canvas has no element: its own colour is the ground there. What is faded mixes with the ground.
_TEXTS = """() => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = colour => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (front, back) => front.slice(0, 3).map((value, i) => value * front[3] + back[i] * (1 - front[3]));
    const luminance = colour => {
        const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = colour.map(value => linear(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        if (!element) return rgba(LiteGraph.NODE_DEFAULT_BGCOLOR).slice(0, 3);
        const own = rgba(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
    };
    const opacity = element => element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
    const found = [];
    for (const widget of app.graph.nodes.flatMap(node => node.widgets ?? [])) {
        if (!/^fluxduel_/i.test(widget.name) || !widget.element) continue;
        const walker = document.createTreeWalker(widget.element, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
            if (!text || !element.checkVisibility({ visibilityProperty: true }) || element.closest("option")) continue;
            const back = ground(element), colour = rgba(getComputedStyle(element).color);
            colour[3] *= opacity(element);
            const [dark, light] = [luminance(over(colour, back)), luminance(back)].sort((a, b) => a - b);
            found.push([(light + 0.05) / (dark + 0.05), widget.name + ": " + text.slice(0, 60)]);
        }
    }
    return found;
}"""


def least_contrast(editor: Editor) -> tuple[float, str]:
    """The least contrast of a text in a widget of this pack, and which text that is."""
    contrast, text = min(editor.page.evaluate(_TEXTS))
    return round(contrast, 1), text
