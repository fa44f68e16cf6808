"""The sidebar tab "xDiT" and its routes, in the real server and in headless Chromium."""

import json
import time
import urllib.error
import urllib.request

import pytest
from support.browser import CHROMIUM, Browser
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import anonymous_bytes, rank_pids, resident_bytes, weight_reads
from support.waiting import wait_until
from xdit_comfyui.parallel_backend.contract.reports import Memory, Standing
from xdit_comfyui.parallel_backend.host.service.status import memory_of

DEVICES = "cpu:2"
ICON = ".xdit-tab-button"
TAB = "document.querySelector('.xdit-status')"


@pytest.fixture
def status(comfy):
    def ask():
        with urllib.request.urlopen(f"{comfy.url}/xdit/status", timeout=30) as answer:
            return json.load(answer)

    return ask


def post(comfy, path, body=b"{}", **headers):
    """Status code and message of a POST."""
    headers = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    request = urllib.request.Request(f"{comfy.url}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)["message"]
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)["message"]


def flux(name, seed=7, steps=4, size=64, conditioning=None):
    graph = Graph()
    model = graph.add(
        "XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=graph.parallel_config(DEVICES)
    )
    latent = graph.add("EmptySD3LatentImage", width=size, height=size, batch_size=1)
    positive = graph.add("RandomConditioning", **conditioning) if conditioning else graph.flux_conditioning(1)
    saved = graph.save(graph.sample("KSampler", model, positive, latent, seed=seed, steps=steps))
    return graph.prompt, saved.id


def latent_of(client, name, **options):
    prompt, saved = flux(name, **options)
    return client.latent(client.run(prompt), saved)


# The routes


def test_before_there_is_a_group(comfy, status):
    # The server is shared: there may be one, and it may still be letting go of weights.
    wait_until(lambda: post(comfy, "/xdit/restart")[0] == 200)
    found = status()
    assert found["state"] == "none" and found["ranks"] == [] and found["devices"] is None
    assert post(comfy, "/xdit/unload") == (200, "No ranks are running.")
    assert post(comfy, "/xdit/restart") == (200, "No ranks are running.")


def test_after_a_prompt(client, comfy, models, status):
    name = models.flux()
    latent_of(client, name, seed=11)
    found = status()
    assert found["state"] == "idle" and found["devices"] == "2 CPU rank(s)"
    assert {rank["pid"] for rank in found["ranks"]} == rank_pids(comfy)
    file = models.models / "diffusion_models" / name
    for number, rank in enumerate(found["ranks"]):
        assert (rank["rank"], rank["device"], rank["memory"]) == (number, f"CPU rank {number}", None)
        assert rank["ram"] == pytest.approx(resident_bytes(rank["pid"]), rel=0.2)
        (model,) = rank["models"]
        assert model["title"] == name and model["bytes"] == pytest.approx(file.stat().st_size, rel=0.1)
    run = found["run"]
    assert (run["phase"], run["step"], run["total"]) == ("done", 4, 4)
    assert run["devices"] == "2 CPU rank(s)" and run["degrees"] and 0 < run["seconds_per_step"] < 10


def test_while_a_prompt_runs_steps_count_and_nothing_is_touched(client, comfy, models, status):
    name = models.flux()
    latent_of(client, name, seed=21)
    before = status()
    prompt, _ = flux(name, seed=22, steps=2000)
    running = client.queue(prompt)
    client.wait_for_step(running, 2)
    seen = []
    for _ in range(3):
        found = status()
        assert found["state"] == "working" and found["run"]["phase"] == "sampling" and found["run"]["total"] == 2000
        assert all(rank["models"] for rank in found["ranks"])  # a rank answers while it samples
        seen.append(found["run"]["step"])
        client.wait_for_step(running, found["run"]["step"] + 3)
    assert seen[0] < seen[1] < seen[2] and seen[0] >= 1
    for path in ("/xdit/unload", "/xdit/restart"):
        code, message = post(comfy, path)
        assert code == 409 and "A prompt is using the ranks. Cancel it" in message
    client.interrupt(running)
    assert client.wait(running).interrupted
    found = wait_until(lambda: (now := status())["state"] == "idle" and now)
    assert found["run"]["phase"] == "cancelled"
    assert found["failure"] == before["failure"] or found["failure"]["what"] == before["failure"]["what"]
    assert [rank["pid"] for rank in found["ranks"]] == [rank["pid"] for rank in before["ranks"]]


def test_unload_frees_the_weights_and_the_next_prompt_reads_them_again(client, comfy, models, status):
    name = models.flux()
    expected = latent_of(client, name, seed=31)
    pids, read = rank_pids(comfy), weight_reads(comfy)
    code, message = post(comfy, "/xdit/unload")
    assert code == 200 and "dropped their weights" in message
    found = status()
    assert found["state"] == "idle" and [rank["models"] for rank in found["ranks"]] == [[], []]
    client.run(flux(name, seed=32)[0])  # or ComfyUI takes the latent from its cache
    assert relative_error(latent_of(client, name, seed=31), expected) <= TOLERANCE
    assert rank_pids(comfy) == pids and weight_reads(comfy) == [*read, name]
    assert all(rank["models"] for rank in status()["ranks"])


def test_unload_gives_the_memory_back(client, comfy, models, status):
    graph = Graph()
    config = graph.parallel_config(DEVICES)
    model = graph.add("XDiTLoader", unet_name=models.sdxl(), weight_dtype="default", parallel_config=config)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    conditioning = graph.add("RandomConditioning", seed=1, tokens=16, context_dim=2048, pooled_dim=1280, guidance=0.0)
    graph.save(graph.sample("KSampler", model, conditioning, latent, seed=33, steps=1))
    client.run(graph.prompt)  # its weights are cast from fp16 to fp32, so each rank has its own
    loaded = {rank["pid"]: rank["models"][0]["bytes"] for rank in status()["ranks"]}
    before = {pid: anonymous_bytes(pid) for pid in loaded}
    post(comfy, "/xdit/unload")
    for pid, size in loaded.items():
        assert before[pid] - anonymous_bytes(pid) > 0.9 * size


def test_restart_ends_the_ranks_and_the_next_prompt_starts_new_ones(client, comfy, models, status):
    name = models.flux()
    expected = latent_of(client, name, seed=41)
    before, pids = status(), rank_pids(comfy)
    code, message = post(comfy, "/xdit/restart")
    assert code == 200 and "The next prompt starts new ones" in message
    assert rank_pids(comfy) == set() and status()["state"] == "none"
    client.run(flux(name, seed=42)[0])
    assert relative_error(latent_of(client, name, seed=41), expected) <= TOLERANCE
    after = status()
    assert rank_pids(comfy).isdisjoint(pids) and len(after["ranks"]) == 2
    assert after["restarts"] == before["restarts"] + 1


def test_the_last_failure_is_told(client, models, status):
    wrong = {"seed": 1, "tokens": 16, "context_dim": 96, "pooled_dim": 64, "guidance": 3.5}
    with pytest.raises(PromptFailed):
        client.run(flux(models.flux(), seed=51, conditioning=wrong)[0])
    found = status()
    assert found["failure"]["what"].startswith("RequestRefused: sampling failed on rank ")
    assert 0 <= found["failure"]["seconds_ago"] < 30 and found["run"]["phase"] == "failed"


def test_requests_that_are_not_ours_are_refused(comfy, status):
    before = rank_pids(comfy)
    for path in ("/xdit/unload", "/xdit/restart"):
        assert post(comfy, path, Content_Type="text/plain")[0] == 415  # what another site's page can send
        assert post(comfy, path, b"[]")[0] == 400
        assert post(comfy, path, b'{"force": true}')[0] == 400
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"{comfy.url}{path}", timeout=30)
        assert answer.value.code in (404, 405)
    assert rank_pids(comfy) == before


# The tab


@pytest.fixture(scope="module")
def browser(comfy):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with Browser() as page:
        page.open(comfy.url)
        page.wait("!!(window.app && app.extensionManager && app.graph)")
        yield page


def shows(browser, *texts, seconds=30):
    """The tab's text, once it holds all of these."""
    wanted = json.dumps([text.lower() for text in texts])
    script = f"(text => {wanted}.every(one => text.toLowerCase().includes(one)) && text)({TAB}?.innerText ?? '')"
    return browser.wait(script, seconds)


def open_tab(browser):
    browser.wait(f"!!document.querySelector('{ICON}')")
    browser.run(f"{TAB} || document.querySelector('{ICON}').click()")
    browser.wait(f"!!{TAB}")


def press(browser, action):
    button = f"{TAB}.querySelector('[data-action={action}]')"
    browser.wait(f"!{button}.disabled")
    browser.run(f"{button}.click()")


def test_the_tab_without_ranks_during_and_after_a_prompt_and_its_buttons(browser, client, comfy, models):
    name = models.flux()
    expected = latent_of(client, name, seed=61)
    pids = rank_pids(comfy)
    open_tab(browser)
    shows(browser, "Idle", "Last run: done", "step 4 of 4", "s/step", name, *(f"pid {pid}" for pid in pids))

    running = client.queue(flux(name, seed=62, steps=2000)[0])
    client.wait_for_step(running, 2)
    shows(browser, "Working", "Sampling", " of 2000")
    press(browser, "unload")
    shows(browser, "A prompt is using the ranks. Cancel it or wait for its end, then try again.")
    assert rank_pids(comfy) == pids
    client.interrupt(running)
    client.wait(running)
    shows(browser, "Idle", "Last run: cancelled")

    press(browser, "unload")
    shows(browser, "the ranks dropped their weights", "no weights loaded")
    assert rank_pids(comfy) == pids
    press(browser, "restart")
    shows(browser, "the ranks were ended", "No ranks yet", "when a workflow with an xDiT node runs")
    assert rank_pids(comfy) == set()
    assert browser.run(f"[...{TAB}.querySelectorAll('button')].every(button => button.disabled)")
    client.run(flux(name, seed=63)[0])  # or ComfyUI takes the latent from its cache
    assert relative_error(latent_of(client, name, seed=61), expected) <= TOLERANCE
    shows(browser, "Idle", *(f"pid {pid}" for pid in rank_pids(comfy)))
    assert rank_pids(comfy).isdisjoint(pids)


# Brightness from 0 to 1 of the tab's text less that of what is behind it.
CONTRAST = """(() => {
  const bright = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, one) => sum + Number(one), 0) / 765;
  let at = %s;
  const text = getComputedStyle(at).color;
  while (/rgba\\(.*, 0\\)/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement;
  return bright(text) - bright(getComputedStyle(at).backgroundColor);
})()"""


def test_the_tab_can_be_read_in_dark_and_in_light(browser):
    open_tab(browser)
    for palette, readable in (("light", "< -0.4"), ("dark", "> 0.4")):
        browser.run(f"app.extensionManager.setting.set('Comfy.ColorPalette', '{palette}')")
        browser.wait(f"{CONTRAST % TAB} {readable}", 15)


def test_a_closed_tab_asks_no_more(browser):
    open_tab(browser)
    browser.run("""(real => {
        window.asked = 0;
        window.fetch = (...how) => { asked += String(how[0]).includes('/xdit/status'); return real(...how); };
    })(window.fetch)""")
    browser.wait("asked > 1")
    browser.run(f"document.querySelector('{ICON}').click()")
    browser.wait(f"!{TAB}")
    asked = browser.run("asked")
    time.sleep(2.5)
    assert browser.run("asked") == asked


# GPUs, as their ranks would answer: this machine has none


def test_memory_of_a_gpu_is_weights_other_and_free():
    answer = Standing(memory=Memory(free=50, total=100), models=(("a", 20), ("b", 10)))
    assert memory_of(answer, of_gpu=True) == {
        "models": [{"title": "a", "bytes": 20}, {"title": "b", "bytes": 10}],
        "memory": {"weights": 30, "other": 20, "free": 50, "total": 100},
    }
    assert memory_of(None, of_gpu=True) == {"models": None, "memory": None}


def test_the_tab_shows_gpus_and_ranks_that_do_not_answer(browser):
    memory = {"weights": 24 << 30, "other": 6 << 30, "free": 10 << 30, "total": 40 << 30}
    rank = {
        "rank": 0,
        "device": "GPU 3",
        "pid": 11,
        "ram": 3 << 30,
        "models": [{"title": "<b>x</b>", "bytes": 24 << 30}],
    }
    status = {
        "state": "working",
        "devices": "GPU 3,5",
        "run": {"degrees": "ulysses 2", "phase": "sampling", "step": 3, "total": 20, "seconds_per_step": 0.12345},
        "restarts": 2,
        "failure": {"seconds_ago": 130, "what": "GroupError: rank 1 (cuda:5) was ended by SIGKILL\nits last lines"},
        "ranks": [
            {**rank, "memory": memory},
            {**rank, "rank": 1, "device": "GPU 5", "ram": None, "models": None, "memory": None},
        ],
    }
    open_tab(browser)
    browser.run(f"""(real => {{
        window.fetch = (...how) => String(how[0]).includes('/xdit/status')
            ? Promise.resolve(new Response({json.dumps(json.dumps(status))})) : real(...how);
        window.putBack = () => {{ window.fetch = real; }};
    }})(window.fetch)""")
    shows(
        browser,
        "GPU 3,5",
        "step 3 of 20 · 0.123 s/step",
        "weights 24.0 GiB · other 6.0 GiB · free 10.0 GiB",
        "<b>x</b>",
    )
    shows(browser, "does not answer", "restarts so far: 2", "Last failure, 2 min ago: GroupError: rank 1 (cuda:5)")
    widths = f"[...{TAB}.querySelectorAll('.xdit-bar span')].map(one => one.style.width)"
    assert browser.run(widths) == ["60%", "15%", "25%"]
    browser.run("putBack()")
