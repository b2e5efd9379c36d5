// Drift: a chart of windows over time, and the table of findings.

const CHART_HEIGHT = 220;

class DriftTab {
  constructor(drift) {
    this.drift = drift;
    this.quantities = [...new Set(drift.windows.flatMap((each) => Object.keys(each.medians)))];
    byId("quantity").append(...this.quantities.map((name) => option(name, name.replaceAll("_", " "))));
    byId("quantity").value = this.quantities.find((name) => this.hasMoved(name)) ?? this.quantities[0] ?? "";
    byId("over-time").hidden = this.quantities.length === 0;
    byId("quantity").addEventListener("change", () => this.showWindows());
    byId("only-moved").addEventListener("change", () => this.showFindings());
    byId("only-moved").checked = drift.findings.length > 12 && drift.findings.some((finding) => finding.has_moved);
    this.showFindings();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot?.redraw());
    new ResizeObserver(oncePerFrame(() => this.resize())).observe(byId("windows"));
  }

  hasMoved(name) {
    return this.drift.windows.some((each) => each.moved.includes(name));
  }

  resize() {
    const width = byId("windows").clientWidth;
    if (width === 0 || this.quantities.length === 0) return;
    if (this.plot === undefined) this.showWindows();
    else if (width !== this.plot.width) this.plot.setSize({ width, height: CHART_HEIGHT });
  }

  reference(name) {
    return (
      this.drift.findings.find((finding) => finding.quantity === name && finding.place === "")?.reference_median ?? null
    );
  }

  showWindows() {
    const name = byId("quantity").value;
    const { windows } = this.drift;
    const medians = windows.map((each) => (Object.hasOwn(each.medians, name) ? each.medians[name] : null));
    const moved = windows.map((each, at) => (each.moved.includes(name) ? medians[at] : null));
    const reference = this.reference(name);
    const data = [windows.map((_, at) => at + 1), windows.map(() => reference), medians, moved];
    this.plot?.destroy();
    this.plot = new uPlot(this.options(data), data, byId("windows"));
    const entries = [
      ["steady", "Median of a window"],
      ["moved", "Has moved"],
      ["reference", "Normal validation images"],
    ];
    byId("drift-legend").replaceChildren(...entries.map(([kind, word]) => el("li", { class: `swatch ${kind}` }, word)));
    this.showWindowTable(name, medians, moved);
  }

  options([numbers, , medians]) {
    const values = medians.filter((value) => value !== null).concat(this.reference(byId("quantity").value) ?? []);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.15 * (high - low) || 0.1 * Math.abs(high) || 1;
    const stroke = (name) => () => colour(name);
    const points = (name, size) => ({ show: true, size, stroke: stroke(name), fill: stroke(name) });
    return {
      width: byId("windows").clientWidth || 320,
      height: CHART_HEIGHT,
      padding: [8, 12, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { time: false, range: () => [0.5, numbers.length + 0.5] },
        y: { range: () => [low - margin, high + margin] },
      },
      axes: [axisStyle({ size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }), axisStyle({ size: 62 })],
      series: [
        {},
        { stroke: stroke("quiet"), width: 1, dash: [6, 4], points: { show: false } },
        { stroke: stroke("normal"), width: 2, points: points("normal", 7) },
        { stroke: stroke("anomalous"), width: 0, paths: () => null, points: points("anomalous", 12) },
      ],
    };
  }

  showWindowTable(name, medians, moved) {
    const rows = this.drift.windows.map((each, at) => [
      String(at + 1),
      String(each.images),
      scoreText(medians[at]),
      moved[at] === null ? "no" : "moved",
      el("bdi", { class: "path" }, each.first),
      el("bdi", { class: "path" }, each.last),
      each.moved.join(", ") || "nothing",
    ]);
    const words = [
      "Window",
      "Images",
      `Median of ${name.replaceAll("_", " ")}`,
      "Moved",
      "From",
      "To",
      "All that moved",
    ];
    byId("window-table").replaceChildren(...tableOf(words, rows, (at) => moved[at] !== null));
  }

  showFindings() {
    const shown = this.drift.findings.filter((finding) => finding.has_moved || !byId("only-moved").checked);
    const rows = shown.map((each) => [
      each.quantity.replaceAll("_", " "),
      each.place || "whole image",
      each.has_moved ? "moved" : "no",
      scoreText(each.reference_median),
      scoreText(each.median),
      each.stability_index.toFixed(3),
      each.p_value < 1e-3 ? each.p_value.toExponential(1) : each.p_value.toFixed(3),
      each.words,
    ]);
    const words = ["Quantity", "Place", "Moved", "Median before", "Median now", "Stability index", "p", "In words"];
    byId("findings").replaceChildren(...tableOf(words, rows, (at) => shown[at].has_moved));
  }
}

/** Give head and body of a table; cells are text or elements. */
function tableOf(words, rows, isMarked) {
  const head = el("thead", {}, el("tr", {}, ...words.map((word) => el("th", { scope: "col" }, word))));
  const body = rows.map((cells, at) =>
    el("tr", { class: isMarked(at) ? "marked" : null }, ...cells.map((cell) => el("td", {}, cell))),
  );
  return [head, el("tbody", {}, ...body)];
}
