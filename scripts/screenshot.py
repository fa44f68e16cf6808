"""Takes the README's picture and the templates' thumbnails in a real ComfyUI, with headless Chromium.

    python3 scripts/screenshot.py                               starts a ComfyUI of its own
    python3 scripts/screenshot.py --url http://127.0.0.1:8188   uses a running one, which has the pack and the models

Needs Chromium with its driver (Debian: apt-get install chromium chromium-driver) and `pip install selenium`.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from comfy_host import PACK_ROOT, ensure_host
from comfy_host.instance import ComfyInstance, make_base_directory
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

TEMPLATES = PACK_ROOT / "example_workflows"
PICTURE = PACK_ROOT / "docs" / "workflow.png"
PICTURE_TEMPLATE = "flux_text_to_image"
SIDEBAR, MENU = 60, 90  # pixels that ComfyUI's own bars take from the canvas
VIEWPORT = {"width": 1600, "height": 900, "deviceScaleFactor": 1.5, "mobile": False}

# The template browser shows square cards: each template's thumbnail is what it has and the others have not.
CARD = {"width": 480, "height": 480 + MENU, "deviceScaleFactor": 1, "mobile": False}
THUMBNAILS = {
    "flux_text_to_image": ("XDiTParallelConfig", "XDiTLoader"),
    "flux_lora": ("XDiTLoader", "LoraLoaderModelOnly"),
    "flux_sampler_custom_advanced": ("BasicScheduler", "RandomNoise", "XDiTSamplerAdvanced"),
    "flux_controlnet": ("Canny", "ControlNetApplyAdvanced", "XDiTSampler"),
    "flux_kontext": ("VAEEncode", "ReferenceLatent", "XDiTSampler"),
    "sdxl_text_to_image": ("XDiTParallelConfig", "XDiTCheckpointLoader"),
    "sd35_text_to_image": ("XDiTCheckpointLoader", "CLIPTextEncode"),
    "qwen_image_text_to_image": ("XDiTLoader", "ModelSamplingAuraFlow", "CLIPTextEncode"),
    "qwen_image_edit": ("TextEncodeQwenImageEditPlus", "FluxKontextMultiReferenceLatentMethod"),
    "z_image_turbo": ("XDiTLoader", "ModelSamplingAuraFlow", "XDiTSampler"),
    "wan22_high_low_text_to_video": ("XDiTLoader", "ModelSamplingSD3"),
    "flux2_sharded": ("XDiTParallelConfig", "XDiTLoader", "CLIPLoader", "EmptyFlux2LatentImage"),
    "wan22_sharded": ("XDiTParallelConfig", "XDiTLoader"),
    "flux_pipefusion": ("XDiTParallelConfig",),
}

# Settings of a ComfyUI started here: no dialog, map, menu or counter over the graph; text is drawn at any zoom.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}

LOAD = """
const [workflow, name, done] = arguments;
(async () => {
    await app.loadGraphData(workflow, true, true, name);
    await document.fonts.ready;
    const wrong = app.graph._nodes.filter(node => node.has_errors || !LiteGraph.registered_node_types[node.type]);
    setTimeout(() => done(wrong.map(node => node.type)), 1000);
})().catch(error => done([String(error)]));
"""

# Zooms until the nodes of these types (none: all) fill what `left` and `top` pixels leave of the window.
FIT = """
const [types, left, top, done] = arguments;
const nodes = app.graph._nodes.filter(node => !types.length || types.includes(node.type));
const boxes = nodes.map(node => node.boundingRect);
const x = Math.min(...boxes.map(box => box[0])), y = Math.min(...boxes.map(box => box[1]));
const width = Math.max(...boxes.map(box => box[0] + box[2])) - x;
const height = Math.max(...boxes.map(box => box[1] + box[3])) - y;
const space = {width: innerWidth - left, height: innerHeight - top};
const view = app.canvas.ds;
view.scale = 0.94 * Math.min(space.width / width, space.height / height);
view.offset[0] = (left + space.width / 2) / view.scale - x - width / 2;
view.offset[1] = (top + space.height / 2) / view.scale - y - height / 2;
app.canvas.setDirty(true, true);
setTimeout(done, 1500);
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--url", help="a running ComfyUI; without it one is started, with stand-ins for model files")
    url = arguments.parse_args().url
    with contextlib.nullcontext(url) if url else own_comfyui() as url, chromium() as browser:
        browser.get(url)
        WebDriverWait(browser, 60).until(lambda page: page.execute_script("return !!(window.app && app.graph)"))
        take_picture(browser, PICTURE_TEMPLATE, [], VIEWPORT, PICTURE, left=SIDEBAR)
        browser.execute_script("app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
        for template, nodes in THUMBNAILS.items():
            take_picture(browser, template, nodes, CARD, TEMPLATES / f"{template}.jpg")
    return 0


@contextlib.contextmanager
def own_comfyui() -> Iterator[str]:
    """A ComfyUI with the pack and an empty file for every model that the templates name; gives its URL."""
    host = ensure_host()
    with tempfile.TemporaryDirectory() as folder:
        base = make_base_directory(Path(folder), {})
        settings = base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps(SETTINGS))
        for template in TEMPLATES.glob("*.json"):
            for node in json.loads(template.read_text())["nodes"]:
                for model in node["properties"].get("models", ()):
                    (base / "models" / model["directory"] / model["name"]).touch()
        shutil.copy(host.tree / "input" / "example.png", base / "input")
        with ComfyInstance(host, base, ["--cpu"]) as comfyui:
            yield comfyui.url


@contextlib.contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    if os.geteuid() == 0:  # Chromium's sandbox refuses root
        options.add_argument("--no-sandbox")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        yield browser


def take_picture(
    browser: webdriver.Chrome, template: str, nodes: Sequence[str], view: dict, file: Path, left: int = 0
) -> None:
    """Load a template, zoom to the nodes of these types (none: all) and write a PNG, or a JPEG without the menu bar.

    Raises RuntimeError if the template has a node or an input that this ComfyUI does not know.
    """
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    workflow = json.loads((TEMPLATES / f"{template}.json").read_text())
    if wrong := browser.execute_async_script(LOAD, workflow, template):
        raise RuntimeError(f"{template} does not load cleanly: {wrong}")
    browser.execute_async_script(FIT, list(nodes), left, MENU)
    how = {"format": "png"}
    if file.suffix == ".jpg":
        below_menu = {"x": 0, "y": MENU, "width": view["width"], "height": view["height"] - MENU, "scale": 1}
        how = {"format": "jpeg", "quality": 88, "clip": below_menu}
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", how)["data"]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(base64.b64decode(picture))
    print(file.relative_to(PACK_ROOT))


if __name__ == "__main__":
    sys.exit(main())
