"""A client of ComfyUI's HTTP and websocket API, with a time limit on every wait."""

import json
import struct
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import websocket
from safetensors.torch import load_file

PREVIEW_IMAGE_WITH_METADATA = 4  # ComfyUI's protocol.BinaryEventTypes


class PromptRefused(RuntimeError):
    """The server's validation refused a prompt. `node_errors`: node id → list of messages; `error` is about all."""

    def __init__(self, error: dict, node_errors: dict[str, list[str]]):
        super().__init__(f"{error.get('message')} {error.get('details', '')} {node_errors or ''}")
        self.error = error
        self.node_errors = node_errors


class PromptFailed(RuntimeError):
    """A prompt ended with an error, or was interrupted; `result` says where."""

    def __init__(self, result: "PromptResult"):
        super().__init__("interrupted" if result.interrupted else str(result.error))
        self.result = result


@dataclass(frozen=True)
class Event:
    """One message of the server. `time` is time.monotonic() at arrival; `data` is the message's own data."""

    time: float
    type: str
    data: dict


@dataclass(frozen=True)
class Preview:
    """One live preview: a whole JPEG or PNG file."""

    time: float
    node: str
    image: bytes


@dataclass(frozen=True)
class NodeError:
    node: str
    node_type: str
    type: str
    message: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.node_type} (node {self.node}): {self.type}: {self.message}\n{self.traceback}"


FAILED: dict[str, list[NodeError]] = {}  # by a server's URL: the errors of its prompts, in the order in which they came


@dataclass
class PromptResult:
    """What one prompt did. `outputs` is node id → what the node showed (such as {"latents": [{filename, …}]})."""

    prompt_id: str
    outputs: dict[str, dict] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    error: NodeError | None = None
    interrupted: bool = False

    def of_type(self, event_type: str) -> list[Event]:
        return [event for event in self.events if event.type == event_type]

    @property
    def seconds(self) -> float:
        """From the start of the execution to its end; time in the queue is not in it."""
        return self.events[-1].time - self.of_type("execution_start")[0].time

    @property
    def cached(self) -> set[str]:
        """Nodes whose results were taken from ComfyUI's cache."""
        return {node for event in self.of_type("execution_cached") for node in event.data["nodes"]}

    def progress(self, node: str | None = None) -> list[tuple[int, int]]:
        """(step, steps) as shown by the progress bar, of one node or of all."""
        shown = self.of_type("progress")
        return [(e.data["value"], e.data["max"]) for e in shown if node in (None, e.data["node"])]

    def node_seconds(self) -> dict[str, float]:
        """Node id → seconds until the next node began (ComfyUI's node timing)."""
        began = self.of_type("executing")
        return {a.data["node"]: b.time - a.time for a, b in zip(began, began[1:], strict=False)}


class ComfyClient:
    """One websocket session with the server at `url`; `output` is its output folder. Close it, or use `with`.

    `on_event` is called with every event of this session's prompts, in the thread that reads them.
    """

    def __init__(self, url: str, output: Path, on_event: Callable[[Event], None] | None = None):
        self.url = url
        self.output = output
        self._on_event = on_event
        self.client_id = uuid.uuid4().hex
        self._results: dict[str, PromptResult] = {}
        self._ended: set[str] = set()
        self._changed = threading.Condition()
        self._lost: Exception | None = None
        self._socket = websocket.create_connection(
            f"{url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}", timeout=30
        )
        hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        self._socket.send(json.dumps(hello))
        self._socket.settimeout(None)
        self._reader = threading.Thread(target=self._read, name="comfy-client", daemon=True)
        self._reader.start()

    def run(self, prompt: dict, timeout: float = 300) -> PromptResult:
        """Queue an API-format prompt and wait for its end. Raises PromptRefused, PromptFailed or TimeoutError."""
        result = self.wait(self.queue(prompt), timeout)
        if result.error or result.interrupted:
            raise PromptFailed(result)
        return result

    def queue(self, prompt: dict, **extra_data) -> str:
        """Queue a prompt; gives its id. Raises PromptRefused. `extra_data` such as preview_method="none"."""
        prompt_id = str(uuid.uuid4())
        with self._changed:
            self._results[prompt_id] = PromptResult(prompt_id)
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client_id, "extra_data": extra_data}
        try:
            answer = self.post("/prompt", body)
        except urllib.error.HTTPError as refused:
            if refused.code != 400:
                raise
            answer = json.load(refused)
            raise PromptRefused(answer["error"], _messages(answer["node_errors"])) from None
        if answer["node_errors"]:  # some outputs are bad, others would run: nobody wants half a prompt here
            self.post("/queue", {"delete": [prompt_id]})
            raise PromptRefused({"message": "some outputs were refused"}, _messages(answer["node_errors"]))
        return prompt_id

    def wait(self, prompt_id: str, timeout: float = 300) -> PromptResult:
        """Wait for the end of a prompt, good or bad. Raises TimeoutError."""
        self._wait(lambda: prompt_id in self._ended, timeout, f"prompt {prompt_id} did not end")
        result = self._results[prompt_id]
        result.outputs = self.get(f"/history/{prompt_id}")[prompt_id]["outputs"]
        return result

    def wait_for(self, prompt_id: str, wanted: Callable[[Event], bool], timeout: float = 300) -> Event:
        """Wait for the first event of a running prompt that `wanted` accepts. Raises TimeoutError."""
        events = self._results[prompt_id].events
        found = lambda: next((event for event in events if wanted(event)), None)  # noqa: E731
        self._wait(lambda: found() or prompt_id in self._ended, timeout, "the awaited event did not come")
        if (event := found()) is None:
            raise TimeoutError(f"the prompt ended without the awaited event; it sent {[e.type for e in events]}")
        return event

    def wait_for_step(self, prompt_id: str, step: int, timeout: float = 300) -> Event:
        """Wait until the progress bar of a prompt shows `step` or more."""
        return self.wait_for(prompt_id, lambda e: e.type == "progress" and e.data["value"] >= step, timeout)

    def validate(self, prompt: dict) -> None:
        """Have the server validate a prompt without running it. Raises PromptRefused.

        The server has no call for that, so the prompt waits behind a node that holds the queue, and is taken out.
        """
        with self._held_queue():
            self.post("/queue", {"delete": [self.queue(prompt)]})

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Press Cancel: for one running prompt, or for whatever runs."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Have the server unload its models and forget cached results, before the next prompt runs.

        The server does so after the prompt that is running, so one is made to run.
        """
        with self._held_queue():
            self.post("/free", {"unload_models": True, "free_memory": True})

    @contextmanager
    def _held_queue(self) -> Iterator[None]:
        """The test-only node HoldQueue keeps the server busy inside this context."""
        holding = self.queue({"hold": {"class_type": "HoldQueue", "inputs": {"seconds": 60.0}}})
        self.wait_for(holding, lambda event: event.type == "executing" and event.data["node"] == "hold", 60)
        try:
            yield
        finally:
            self.interrupt(holding)
            self.wait(holding, 60)

    def object_info(self) -> dict[str, dict]:
        return self.get("/object_info")

    def output_files(self, result: PromptResult, node: str) -> list[Path]:
        """The files that an output node saved (SaveLatent, SaveImage)."""
        listed = [item for items in result.outputs[node].values() for item in items]
        return [self.output / item["subfolder"] / item["filename"] for item in listed]

    def latent(self, result: PromptResult, node: str) -> torch.Tensor:
        """The latent that a SaveLatent node saved: B,C,H,W (B,C,T,H,W for video)."""
        return load_file(self.output_files(result, node)[0])["latent_tensor"]

    def get(self, path: str, timeout: float = 60):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=timeout) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict, timeout: float = 60):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def close(self) -> None:
        self._socket.close()
        self._reader.join(10)

    def __enter__(self) -> "ComfyClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _wait(self, done: Callable[[], object], timeout: float, otherwise: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: done() or self._lost, timeout):
                raise TimeoutError(f"{otherwise} within {timeout:.0f} s")
            if not done():
                raise ConnectionError(f"{otherwise}: the server closed the connection ({self._lost})")

    def _read(self) -> None:
        while True:
            try:
                message = self._socket.recv()
                if not message:
                    raise ConnectionError("end of stream")
            except (OSError, websocket.WebSocketException) as lost:
                with self._changed:
                    self._lost = lost
                    self._changed.notify_all()
                return
            with self._changed:
                self._take_binary(message) if isinstance(message, bytes) else self._take(json.loads(message))
                self._changed.notify_all()

    def _take(self, message: dict) -> None:
        kind, data = message["type"], message["data"]
        result = self._results.get(data.get("prompt_id"))
        if result is None:
            return
        event = Event(time.monotonic(), kind, data)
        result.events.append(event)
        if self._on_event:
            self._on_event(event)
        if kind == "execution_error":
            result.error = NodeError(
                data["node_id"],
                data["node_type"],
                data["exception_type"],
                data["exception_message"].strip(),
                "".join(data["traceback"]),
            )
            FAILED.setdefault(self.url, []).append(result.error)
        elif kind == "execution_interrupted":
            result.interrupted = True
        elif kind == "executing" and data["node"] is None:
            self._ended.add(result.prompt_id)

    def _take_binary(self, message: bytes) -> None:
        if struct.unpack(">I", message[:4])[0] != PREVIEW_IMAGE_WITH_METADATA:
            return
        length = struct.unpack(">I", message[4:8])[0]
        about = json.loads(message[8 : 8 + length])
        preview = Preview(time.monotonic(), about["node_id"], message[8 + length :])
        self._results[about["prompt_id"]].previews.append(preview)


def _messages(node_errors: dict) -> dict[str, list[str]]:
    return {
        node: [f"{error['message']}: {error['details']}" for error in about["errors"]]
        for node, about in node_errors.items()
    }
