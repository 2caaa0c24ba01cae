"""The sockets of options: of the nodes that give them, and of the stages that take them."""

from __future__ import annotations

from comfy_api.latest import io

from ..sockets import OptionsSocket


def before() -> io.Input:
    """Options of other option nodes, to go on with."""
    return OptionsSocket.Input(
        "options", optional=True, tooltip="Options of another option node. Where both have one, this node's holds."
    )


def joined() -> io.Output:
    """The options so far."""
    return OptionsSocket.Output(
        "joined_options",
        display_name="options",
        tooltip="For the options input of a training node, or of another option node.",
    )


def stage_options() -> io.Input:
    """A training node's input for what it has no widget for."""
    return OptionsSocket.Input(
        "options",
        optional=True,
        tooltip="From one option node or a chain of them: optimiser, noise levels, memory and more. What is not "
        "connected has its default; options of the other stage are not used.",
    )
