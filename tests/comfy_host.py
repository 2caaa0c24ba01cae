"""A real ComfyUI process with this pack installed: what the host tests, the browser tests and the demo drive."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
PACK_NAME = "ComfyUI-FluxDuel"
START_TIMEOUT = 180.0


class HostError(RuntimeError):
    """The host did not start, refused a graph, or failed while running it. The message says which, and why."""


def host_folder() -> Path:
    """The ComfyUI checkout to run: ``COMFYUI_PATH`` where set, else the copy that ``tests/get_host.py`` unpacked."""
    named = os.environ.get("COMFYUI_PATH")
    folder = Path(named).expanduser() if named else ROOT / ".host"
    if not (folder / "main.py").is_file():
        advice = "Point COMFYUI_PATH at a ComfyUI checkout." if named else "Run `make host`, or set COMFYUI_PATH."
        raise HostError(f"{folder} holds no ComfyUI (no main.py there). {advice}")
    return folder.resolve()


class ComfyHost:
    """ComfyUI on the CPU, on a free port of this machine, with all its data below ``base``.

    The checkout itself is only read. ``pack`` is the installed pack: by default a link to this repository;
    with ``pack=None`` whatever lies in ``base/custom_nodes`` is used as it is. ``device_arguments`` replaces
    ``--cpu``.
    """

    def __init__(
        self,
        base: Path,
        *,
        pack: Path | None = ROOT,
        arguments: Sequence[str] = (),
        device_arguments: Sequence[str] = ("--cpu",),
        port: int | None = None,
    ) -> None:
        self.base = Path(base).resolve()
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.base / "comfyui.log"
        for name in ("custom_nodes", "input", "output", "models", "temp", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if pack is not None:
            link = self.base / "custom_nodes" / PACK_NAME
            if not link.is_symlink():
                link.symlink_to(pack, target_is_directory=True)
        command = [
            sys.executable, str(Path(__file__).with_name("launch_comfy.py")), str(host_folder()),
            *device_arguments,
            "--listen", "127.0.0.1", "--port", str(self.port),
            "--base-directory", str(self.base),
            "--database-url", "sqlite:///:memory:",
            "--disable-auto-launch", "--disable-api-nodes",
            *arguments,
        ]  # fmt: skip
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.base,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Threads that wait give their core away. Beside other work, torch is many times faster that way.
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """Everything that the host has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """The JSON answer to ``GET path``. Raises ``urllib.error.HTTPError`` for a status from 400 on."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer (or ``None``) to ``POST path`` with a JSON body; errors as in ``get``."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """The host's description of one node, or of all nodes by id. ``KeyError`` when it has no such node."""
        if node_id is None:
            return self.get("/object_info")
        return self.get(f"/object_info/{node_id}")[node_id]

    def queue(self, graph: Mapping[str, Any], *, client_id: str = "", workflow: Mapping[str, Any] | None = None) -> str:
        """Queue an API-format graph; the prompt id. ``HostError`` with the host's words when it is refused.

        ``workflow`` is the same graph in the editor's format, which the host writes into saved pictures.
        """
        body: dict[str, Any] = {"prompt": graph, "client_id": client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise HostError(_refusal(text) if error.code == 400 else f"HTTP {error.code}: {text}") from error

    def wait(self, prompt_id: str, timeout: float = 300.0) -> dict[str, Any]:
        """The history entry of a prompt once it is over, whether it succeeded, failed or was interrupted."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._check_alive()
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return entry
            time.sleep(0.2)
        raise HostError(f"The graph was still running after {timeout:.0f} s.\n{self.log_tail()}")

    def run(self, graph: Mapping[str, Any], timeout: float = 300.0) -> dict[str, Any]:
        """Queue a graph and wait; the ``ui`` outputs by node id. ``HostError`` with the node's own error text."""
        entry = self.wait(self.queue(graph), timeout)
        problem = failure(entry)
        if problem:
            raise HostError(problem)
        return entry["outputs"]

    def interrupt(self) -> None:
        """What the Cancel button does."""
        self.post("/interrupt", {})

    async def events(self, client_id: str) -> AsyncIterator[dict[str, Any]]:
        """The websocket's JSON messages (``{"type", "data"}``); binary ones, the previews, are left out.

        It ends when the host closes the connection. ``client_id`` is the one to give to ``queue``.
        """
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client_id}", max_msg_size=0) as socket_,
        ):
            async for message in socket_:
                if message.type is aiohttp.WSMsgType.TEXT:
                    yield json.loads(message.data)

    def anonymous_memory(self) -> int:
        """Bytes of the process's own memory, files that are mapped into it apart (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def join(self) -> None:
        """Return when the process has ended by itself."""
        self._process.wait()

    def stop(self) -> None:
        """End the process. Its files below ``base`` stay."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(15)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log, with where to read the rest."""
        tail = "\n".join(self.log.splitlines()[-lines:])
        return f"--- last lines of {self.log_path}\n{tail}"

    def _check_alive(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise HostError(f"ComfyUI ended with exit code {code}.\n{self.log_tail()}")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise HostError(f"ComfyUI did not answer within {START_TIMEOUT:.0f} s.\n{self.log_tail()}")


def failure(entry: Mapping[str, Any]) -> str | None:
    """Why a finished prompt did not succeed, in the failing node's words; ``None`` when it did."""
    status = entry["status"]
    if status["status_str"] == "success":
        return None
    for kind, data in status["messages"]:
        if kind == "execution_error":
            where = f"{data['node_type']} (node {data['node_id']})"
            return f"{where}: {data['exception_type']}: {data['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return f"interrupted in {data['node_type']} (node {data['node_id']})"
    return f"ended as {status['status_str']}"


def _refusal(text: str) -> str:
    answer = json.loads(text)
    lines = [f"ComfyUI refused the graph: {answer['error']['message']} {answer['error'].get('details', '')}".strip()]
    for node, report in (answer.get("node_errors") or {}).items():
        for problem in report["errors"]:
            lines.append(f"{report['class_type']} (node {node}): {problem['message']}: {problem['details']}")
    return "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
