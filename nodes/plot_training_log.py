"""The numbers of one or more stages as a picture."""

from __future__ import annotations

from comfy_api.latest import io

from ..training.evidence.training_log import TrainingLog
from . import host
from .sockets import TrainingLogSocket
from .widgets import supported


class PlotTrainingLog(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelPlotTrainingLog",
            display_name="Plot Training Log",
            category="FluxDuel",
            description="Draw the losses and accuracies of up to four stages, one after the other.",
            inputs=[
                TrainingLogSocket.Input("log", tooltip="The log of a stage."),
                TrainingLogSocket.Input("log_2", optional=True, tooltip="The log of the stage after it."),
                TrainingLogSocket.Input("log_3", optional=True, tooltip="A third log."),
                TrainingLogSocket.Input("log_4", optional=True, tooltip="A fourth log."),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The plot, for Preview or Save Image.")
            ],
            **supported(io.Schema, search_aliases=["loss graph", "loss curve"]),
        )

    @classmethod
    def execute(
        cls,
        log: TrainingLog,
        log_2: TrainingLog | None = None,
        log_3: TrainingLog | None = None,
        log_4: TrainingLog | None = None,
    ) -> io.NodeOutput:
        # Here and not above: drawing brings in matplotlib, which would slow every start of the host.
        from ..training.evidence.plot import plot_logs

        logs = [each for each in (log, log_2, log_3, log_4) if each is not None]
        return io.NodeOutput(host.image_tensor(plot_logs(logs)))
