// xDiT Doctor and xDiT Benchmark show their report in the node, in letters of one width so that the columns stay columns.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const REPORTING = ["XDiTDoctor", "XDiTBenchmark"];
const WIDTH = 860;
const HEIGHT = 620;

function reportWidget(node) {
  const known = node.widgets?.find((widget) => widget.name === "report");
  if (known) return known;
  const { widget } = ComfyWidgets.STRING(node, "report", ["STRING", { multiline: true }], app);
  widget.serialize = false; // not saved with the workflow
  widget.options.serialize = false; // and no input of the node
  widget.inputEl.readOnly = true;
  Object.assign(widget.inputEl.style, { fontFamily: "monospace", whiteSpace: "pre" });
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT)]);
  return widget;
}

app.registerExtension({
  name: "xdit.doctor",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!REPORTING.includes(nodeData.name)) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments);
      if (output?.text) reportWidget(this).value = output.text.join("");
    };
  },
});
