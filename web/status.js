// The sidebar tab "xDiT": the ranks, their memory, the run, and buttons to unload and to restart them.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const POLL_MILLISECONDS = 1000;
const NOTE_MILLISECONDS = 15000;

const STATES = {
  none: "No ranks yet",
  starting: "Starting",
  idle: "Idle",
  preloading: "Preloading",
  working: "Working",
  lost: "Ended",
  failed: "Did not start",
};
const EXPLAINED = {
  none: "They are started when a workflow with an xDiT node runs, and kept for the next one.",
  preloading: "The ranks read the weights of a model that a loader asked for.",
  starting: "Each rank imports PyTorch and ComfyUI and connects to the others.",
  lost: "The next prompt starts new ranks.",
  failed: "The next prompt tries again.",
};
const PHASES = { loading: "Loading", sampling: "Sampling", done: "Done", failed: "Failed", cancelled: "Cancelled" };

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  return `${Math.max(bytes / 2 ** 20, bytes ? 0.1 : 0).toFixed(bytes < 1e7 ? 1 : 0)} MiB`;
}

function ago(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  return seconds < 3600 ? `${Math.round(seconds / 60)} min ago` : `${(seconds / 3600).toFixed(1)} h ago`;
}

function stateView(status) {
  const name = element("strong", `xdit-state xdit-${status.state}`, STATES[status.state]);
  const line = element("div", "xdit-line", name, status.devices ?? "");
  const explained = EXPLAINED[status.state];
  return explained ? [line, element("p", "xdit-quiet", explained)] : [line];
}

function runView(run, working) {
  const read = run.phase === "loading" && run.read !== null ? ` ${Math.floor(100 * run.read)} %` : "";
  const title = working ? PHASES[run.phase] + read : `Last run: ${PHASES[run.phase].toLowerCase()}`;
  const view = element("section", "xdit-run", element("div", "xdit-line", element("strong", "", title), run.degrees));
  if (!run.total) return view;
  const bar = element("progress", "");
  Object.assign(bar, { max: run.total, value: run.step });
  const facts = [`step ${run.step} of ${run.total}`, `${run.seconds_per_step.toPrecision(3)} s/step`];
  view.append(bar, element("div", "xdit-quiet", facts.join(" · ")));
  return view;
}

function memoryView(memory) {
  const bar = element("div", "xdit-bar");
  const facts = [];
  for (const kind of ["weights", "other", "free"]) {
    const part = element("span", `xdit-part-${kind}`);
    part.style.width = `${(100 * memory[kind]) / memory.total}%`;
    bar.append(part);
    facts.push(`${kind} ${size(memory[kind])}`);
  }
  return [bar, element("div", "xdit-quiet", facts.join(" · "))];
}

function rankView(rank) {
  const title = element("div", "xdit-line", element("strong", "", `Rank ${rank.rank}`), rank.device);
  const facts = [`pid ${rank.pid}`];
  if (rank.ram !== null) facts.push(`RAM ${size(rank.ram)}`);
  const view = element("section", "xdit-rank", title, element("div", "xdit-quiet", facts.join(" · ")));
  if (rank.memory) view.append(...memoryView(rank.memory));
  if (rank.models === null) view.append(element("div", "xdit-failure", "does not answer"));
  for (const model of rank.models ?? [])
    view.append(element("div", "xdit-model", model.title, element("span", "xdit-quiet", size(model.bytes))));
  if (rank.models?.length === 0) view.append(element("div", "xdit-quiet", "no weights loaded"));
  return view;
}

function failureView(failure) {
  const [first, ...rest] = failure.what.split("\n");
  const view = element("details", "xdit-failure", element("summary", "", `Last failure, ${ago(failure.seconds_ago)}: ${first}`));
  if (rest.length) view.append(element("pre", "", rest.join("\n")));
  return view;
}

function statusView(status) {
  const view = stateView(status);
  if (status.run) view.push(runView(status.run, status.state === "working"));
  view.push(...status.ranks.map(rankView));
  if (status.state !== "none" || status.restarts)
    view.push(element("div", "xdit-quiet xdit-restarts", `restarts so far: ${status.restarts}`));
  return view;
}

class StatusTab {
  open(container) {
    this.close();
    this.note = element("p", "xdit-note");
    this.note.setAttribute("role", "status");
    this.buttons = [
      this.button("Unload", "unload", "The ranks drop their weights and stay; the next prompt reads them again."),
      this.button("Restart", "restart", "Ends the ranks; the next prompt starts new ones."),
    ];
    this.body = element("div", "xdit-body");
    this.failure = element("div", "");
    const buttons = element("div", "xdit-buttons", ...this.buttons);
    const title = element("h2", "", "xDiT");
    container.replaceChildren(element("div", "xdit-status", title, buttons, this.note, this.body, this.failure));
    this.timer = setInterval(() => this.refresh(), POLL_MILLISECONDS);
    this.refresh();
  }

  close() {
    clearInterval(this.timer);
    this.timer = null;
  }

  button(label, action, tooltip) {
    const button = element("button", "", label);
    button.type = "button";
    button.title = tooltip;
    button.dataset.action = action;
    button.addEventListener("click", () => this.act(action));
    return button;
  }

  enable(status) {
    const ranks = status !== null && status.ranks.length > 0;
    this.buttons[0].disabled = this.acting || !ranks;
    this.buttons[1].disabled = this.acting || !(ranks || status?.state === "starting");
  }

  async act(action) {
    this.acting = true;
    this.enable(null);
    try {
      const body = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
      const answer = await api.fetchApi(`/xdit/${action}`, body);
      const { message } = await answer.json();
      this.say(message, !answer.ok);
    } catch (error) {
      this.say(`ComfyUI did not answer: ${error.message}`, true);
    }
    this.acting = false;
    await this.refresh();
  }

  say(message, failed) {
    this.note.textContent = message;
    this.note.classList.toggle("xdit-failure", failed);
    clearTimeout(this.forget);
    this.forget = setTimeout(() => (this.note.textContent = ""), NOTE_MILLISECONDS);
  }

  async refresh() {
    if (this.asking) return; // the answer before is still on its way
    this.asking = true;
    try {
      const answer = await api.fetchApi("/xdit/status", { cache: "no-store" });
      const status = await answer.json();
      this.body.replaceChildren(...statusView(status));
      this.showFailure(status.failure);
      this.enable(status);
    } catch (error) {
      this.body.replaceChildren(element("p", "xdit-failure", `ComfyUI does not answer: ${error.message}`));
      this.enable(null);
    }
    this.asking = false;
  }

  showFailure(failure) {
    const open = this.failure.querySelector("details")?.open;
    this.failure.replaceChildren(...(failure ? [failureView(failure)] : []));
    if (open && failure) this.failure.firstChild.open = true;
  }
}

app.registerExtension({
  name: "xdit.status",
  setup() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("status.css", import.meta.url).href;
    document.head.append(style);
    const tab = new StatusTab();
    app.extensionManager.registerSidebarTab({
      id: "xdit",
      title: "xDiT",
      icon: "pi pi-server",
      tooltip: "xDiT: ranks, memory, speed",
      type: "custom",
      render: (container) => tab.open(container),
      destroy: () => tab.close(),
    });
  },
});
