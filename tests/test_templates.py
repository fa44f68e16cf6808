"""Every shipped template: valid as it is on the real server, and runs with stand-ins for what it loads."""

import json

import pytest
from comfy_host import PACK_ROOT
from support.templates import place_flux_files, with_stand_ins
from support.workflow import to_prompt

TEMPLATES = sorted((PACK_ROOT / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_is_valid_unchanged_and_runs(client, models, template):
    info = client.object_info()
    prompt = to_prompt(json.loads(template.read_text()), info)
    place_flux_files(prompt, models)
    client.validate(prompt)
    with_tiny_models, saved = with_stand_ins(prompt, info, size=(256, 192))
    shipped = {node["class_type"] for node in with_tiny_models.values() if node["class_type"].startswith("XDiT")}
    assert len(shipped) == 3  # loader, config, sampler are the template's own
    latent = client.latent(client.run(with_tiny_models, timeout=240), saved[0])
    assert latent.shape == (1, 16, 24, 32)
    assert latent.isfinite().all()


def test_the_template_browser_lists_them(client):
    listed = client.get("/workflow_templates")
    assert sorted(listed["xdit-comfyui"]) == [template.stem for template in TEMPLATES]
