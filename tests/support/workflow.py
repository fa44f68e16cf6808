"""Turns a workflow file (what ComfyUI's editor saves) into a prompt (what its server takes).

The editor does the same when someone presses Run. Subgraphs are not covered, and a file whose values do not fit the
nodes of the server is refused: it would show something else in the editor than its author saved.
"""

from collections.abc import Iterator

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
NOTES = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4
CONTROL_NAMES = ("seed", "noise_seed")  # the editor gives these a control-after-generate value unasked


class WorkflowError(ValueError):
    """The workflow cannot be turned into a prompt for this server; the message names the node."""


def to_prompt(workflow: dict, object_info: dict[str, dict]) -> dict[str, dict]:
    """`workflow`: a parsed workflow file (version 0.4). `object_info`: the server's /object_info. Gives a prompt."""
    if workflow.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("subgraphs are not covered")
    graph = _Graph(workflow)
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES | {"Reroute", "PrimitiveNode"} or node.get("mode") in (MUTED, BYPASSED):
            continue
        if node["type"] not in object_info:
            raise WorkflowError(f"node {node['id']}: the server has no {node['type']}")
        inputs = dict(_widget_values(node, object_info[node["type"]]))
        for slot in node.get("inputs", ()):
            if slot.get("link") is not None and (source := graph.source(slot["link"])) is not None:
                inputs[slot["name"]] = source
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _widget_values(node: dict, info: dict) -> Iterator[tuple[str, object]]:
    """(input name, value) for every widget, in the order in which the editor makes them."""
    values = list(node.get("widgets_values") or ())
    where = f"node {node['id']} ({node['type']})"
    yield from _take(info["input"], values, "", where)
    media = [spec[1] for section in _sections(info["input"]) for spec in section.values() if len(spec) > 1]
    uploads = sum(bool(options.get(f"{kind}_upload")) for options in media for kind in ("image", "video", "audio"))
    if len(values) > uploads:  # an upload button keeps a value too, after all others
        raise WorkflowError(f"{where} has values that it has no widgets for: {values}")


def _take(inputs: dict, values: list, prefix: str, where: str) -> Iterator[tuple[str, object]]:
    """Take the values of these inputs from the front of `values`; a dynamic combo brings inputs of its choice along.

    A hidden optional input, which is there for older prompts, may have no value.
    """
    for section in _sections(inputs):
        for name, spec in section.items():
            kind, options = (*spec, {})[:2]
            if not (isinstance(kind, list) or kind in WIDGET_TYPES | {DYNAMIC_COMBO}) or options.get("forceInput"):
                continue
            if not values:
                if options.get("hidden") and name in inputs.get("optional", {}):
                    continue
                raise WorkflowError(f"{where} has no value for {prefix}{name}")
            value = values.pop(0)
            yield prefix + name, value
            if kind == DYNAMIC_COMBO:
                chosen = next((option for option in options["options"] if option["key"] == value), None)
                if chosen is None:
                    raise WorkflowError(f"{where} has {value!r} for {prefix}{name}, which does not offer it")
                yield from _take(chosen["inputs"], values, f"{prefix}{name}.", where)
            if options.get("control_after_generate", kind == "INT" and name in CONTROL_NAMES) and values:
                values.pop(0)


def _sections(inputs: dict) -> list[dict]:
    return [inputs.get("required", {}), inputs.get("optional", {})]


class _Graph:
    """Follows links to where their values come from, through reroutes, primitives and bypassed nodes."""

    def __init__(self, workflow: dict):
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in workflow["links"]}

    def source(self, link_id: int) -> object | None:
        """[node id, output] or, from a primitive, its value; None if the link leads to nothing that runs."""
        _, node_id, output, _, _, link_type = self.links[link_id]
        node = self.nodes[node_id]
        if node["type"] == "PrimitiveNode":
            return node["widgets_values"][0]
        if node["type"] == "Reroute":
            return self._through(node["inputs"][0])
        if node.get("mode") == MUTED:
            return None
        if node.get("mode") == BYPASSED:
            slots = node.get("inputs", [])
            same_place = slots[output : output + 1]
            wanted = node["outputs"][output]["type"]
            slot = next((slot for slot in [*same_place, *slots] if slot["type"] in (wanted, link_type, "*")), None)
            return self._through(slot)
        return [str(node_id), output]

    def _through(self, slot: dict | None) -> object | None:
        if slot is None or slot.get("link") is None:
            return None
        return self.source(slot["link"])
