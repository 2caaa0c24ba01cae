"""The colours of the pack's sockets, and small numbers in the number fields of Nodes 2.0."""

from __future__ import annotations

from fluxduel.tests.browser.editor import Editor

LORA, LATENTS = "FLUXDUEL_FLUX_LORA", "FLUXDUEL_REAL_LATENTS"
_COLOURS = """types => types.map(type => [
    app.canvas.default_connection_color_byType[type], app.canvas.constructor.link_type_colors[type],
    getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`).trim(),
])"""


def test_sockets_have_colours_of_their_own_under_every_theme(editor: Editor) -> None:
    editor.add("diffusion")
    for theme in ("dark", "light", "dark"):
        editor.page.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
        editor.page.wait_for_timeout(1000)
        lora, latents = editor.page.evaluate(_COLOURS, [LORA, LATENTS])
        for each in (lora, latents):
            assert len(set(each)) == 1 and each[0].startswith("#"), (theme, each)
        assert lora != latents


def test_a_small_learning_rate_is_shown_and_typed(editor: Editor) -> None:
    (node,) = editor.add("diffusion")
    field = editor.page.locator(f'[data-node-id="{node}"]').get_by_label("learning_rate")
    if not field.count():
        field = editor.page.locator(f'[data-node-id="{node}"] input').nth(1)
    if not field.count():
        return  # drawn on the canvas
    assert float(field.first.input_value()) == 1e-4
    field.first.click()
    editor.page.keyboard.press("Control+A")
    editor.page.keyboard.type("0.00015", delay=30)
    field.first.press("Enter")
    editor.next_frame()
    value = "id => app.graph.getNodeById(id).widgets.find(widget => widget.name === 'learning_rate').value"
    assert editor.page.evaluate(value, node) == 0.00015
