// Choosing the threshold: presets, the table of decisions, rates, cost, and the lines that make it real.

const CELLS = [
  [ANOMALOUS, "found", "missed"],
  [NORMAL, "false_alarm", "passed"],
  [UNKNOWN, "alarm", "quiet"],
];
const TRUTH_WORDS = { [ANOMALOUS]: "Anomalous", [NORMAL]: "Normal", [UNKNOWN]: "Unlabelled" };

class ThresholdPanel {
  /**
   * @param {object} content - Content of the page.
   * @param {object} state - Holds `threshold`, `band`, `counts`, and sets the threshold.
   * @param {number[]} range - Lowest and highest score on the axis.
   * @param {function(string): void} onoutcome - Called with an outcome that the reader wants to see.
   */
  constructor(content, state, range, onoutcome) {
    Object.assign(this, { content, state, onoutcome });
    this.gaps = gapsBetween(content.images, range);
    this.truths = CELLS.map(([truth]) => truth).filter((truth) =>
      content.images.some((each) => truthOf(each) === truth),
    );
    this.field = byId("threshold");
    this.makeLegend();
    this.hideWhatNeedsLabels();
    this.listen();
    this.show();
  }

  count(truth) {
    return this.content.images.filter((image) => truthOf(image) === truth).length;
  }

  makeLegend() {
    const entries = this.truths.map((truth) => [truth, TRUTH_WORDS[truth], this.count(truth)]);
    byId("legend").replaceChildren(
      ...entries.map(([truth, word, count]) =>
        el("li", { class: `swatch ${truth}` }, `${word} `, el("b", {}, String(count))),
      ),
      ...(this.state.band === null ? [] : [el("li", { class: "swatch uncertain" }, "Uncertain")]),
    );
  }

  hideWhatNeedsLabels() {
    const has = (truth) => this.truths.includes(truth);
    const met = { both: has(NORMAL) && has(ANOMALOUS), normal: has(NORMAL), anomalous: has(ANOMALOUS) };
    for (const node of document.querySelectorAll("[data-needs]")) node.hidden = !met[node.dataset.needs];
    const prevalence = this.count(ANOMALOUS) / (this.count(ANOMALOUS) + this.count(NORMAL));
    if (met.both) byId("prevalence").value = Number((100 * prevalence).toFixed(2));
  }

  listen() {
    const { scale } = this.content;
    byId("own").addEventListener("click", () => this.choose(scale.threshold, "The threshold of the run."));
    byId("best-f1").addEventListener("click", () => this.chooseGap(bestF1(this.gaps)));
    byId("no-miss").addEventListener("click", () => this.chooseGap(noMiss(this.gaps)));
    byId("no-false-alarm").addEventListener("click", () => this.chooseGap(atMostFalseAlarms(this.gaps, 0)));
    this.onSubmit("rate-form", () => this.chooseGap(atMostFalseAlarms(this.gaps, byId("rate").valueAsNumber / 100)));
    this.onSubmit("cost-form", () => this.chooseGap(leastCost(this.gaps, this.prices())));
    byId("cost-form").addEventListener("input", () => this.showCost());
    this.field.addEventListener("input", () => {
      if (Number.isFinite(this.field.valueAsNumber)) this.choose(this.field.valueAsNumber, "");
    });
    this.field.addEventListener("change", () => {
      this.field.value = this.state.threshold;
    });
    for (const button of document.querySelectorAll("[data-copies]")) {
      button.addEventListener("click", () => copyText(byId(button.dataset.copies), button));
    }
  }

  onSubmit(id, task) {
    byId(id).addEventListener("submit", (event) => {
      event.preventDefault();
      task();
    });
  }

  choose(threshold, words) {
    this.state.setThreshold(threshold);
    byId("said").textContent = words;
  }

  chooseGap(gap) {
    const { missed, false_alarm: falseAlarms } = gap.counts;
    const truths = this.truths.length;
    const miss = this.truths.includes(ANOMALOUS) ? countText(missed, "defect missed", "defects missed") : null;
    const alarms = this.truths.includes(NORMAL) ? countText(falseAlarms, "false alarm", "false alarms") : null;
    const threshold = thresholdIn(gap);
    const words = truths ? [miss, alarms].filter((each) => each !== null).join(", ") : "";
    this.choose(
      threshold,
      `Threshold ${threshold}: ${words}. No score lies between ${scoreText(gap.low)} and ${scoreText(gap.high)}.`,
    );
  }

  prices() {
    return {
      miss: byId("cost-miss").valueAsNumber || 0,
      falseAlarm: byId("cost-false-alarm").valueAsNumber || 0,
      prevalence: (byId("prevalence").valueAsNumber || 0) / 100,
    };
  }

  show() {
    if (document.activeElement !== this.field) this.field.value = this.state.threshold;
    const { band } = this.state;
    byId("band").textContent = band === null ? "" : `uncertain from ${scoreText(band[0])} to ${scoreText(band[1])}`;
    this.showMatrix();
    this.showRates();
    this.showCost();
    this.showCommands();
  }

  showMatrix() {
    const columns = CELLS.filter(([truth]) => this.truths.includes(truth));
    const row = (word, cells) => el("tr", {}, el("th", { scope: "row" }, word), ...cells);
    const outcomeRow = (word, place) =>
      row(
        word,
        columns.map((cells) => this.cell(cells[place])),
      );
    const head = el("tr", {}, el("td"), ...columns.map(([truth]) => el("th", { scope: "col" }, TRUTH_WORDS[truth])));
    const rows = [head, outcomeRow("Alarm", 1), outcomeRow("No alarm", 2)];
    if (this.state.band !== null) {
      rows.push(
        row(
          "Of these uncertain",
          columns.map(([truth]) => this.uncertainCell(truth)),
        ),
      );
    }
    this.replaceKeepingFocus(byId("matrix"), rows);
  }

  /** Replace rows; the button that has the focus keeps it, though it is another one. */
  replaceKeepingFocus(table, rows) {
    const focused = table.contains(document.activeElement) ? document.activeElement.id : null;
    table.replaceChildren(...rows);
    if (focused) byId(focused)?.focus();
  }

  cell(outcome) {
    const { many, isWrong } = OUTCOMES[outcome];
    const button = el(
      "button",
      {
        type: "button",
        id: `count-${outcome}`,
        class: isWrong && this.state.counts[outcome] > 0 ? `wrong ${OUTCOMES[outcome].truth}` : null,
        onclick: () => this.onoutcome(outcome),
      },
      el("b", {}, this.state.counts[outcome].toLocaleString("en")),
      el("span", {}, many),
    );
    return el("td", {}, button);
  }

  uncertainCell(truth) {
    const number = el("b", {}, this.state.counts.uncertain[truth].toLocaleString("en"));
    const attributes = { type: "button", id: `uncertain-${truth}`, onclick: () => this.onoutcome("uncertain") };
    return el("td", {}, el("button", attributes, number, el("span", {}, "look again")));
  }

  showRates() {
    const { counts } = this.state;
    const rates = ratesOf(counts);
    const alarms = counts.found + counts.false_alarm + counts.alarm;
    const rows = [];
    if (this.truths.includes(NORMAL) && this.truths.includes(ANOMALOUS)) {
      rows.push(
        ["Precision", percentText(rates.precision), "precision"],
        ["Recall", percentText(rates.recall), "recall"],
      );
      rows.push(["F1", rates.f1 === null ? "–" : rates.f1.toFixed(3), "f1"]);
    }
    if (this.truths.includes(NORMAL))
      rows.push(["False alarms", percentText(rates.falseAlarmRate), "false-alarm-rate"]);
    else rows.push(["Alarms", percentText(share(alarms, this.content.images.length)), "alarm-rate"]);
    byId("rates").replaceChildren(
      ...rows.map(([word, value, id]) => el("div", {}, el("dt", {}, word), el("dd", { id: `rate-${id}` }, value))),
    );
  }

  showCost() {
    const cost = 1000 * costOf(this.state.counts, this.prices());
    byId("cost").textContent = `now a cost of ${cost.toLocaleString("en", { maximumSignificantDigits: 4 })} per 1,000 parts`;
  }

  showCommands() {
    const { scale } = this.content;
    const { threshold } = this.state;
    const width = scale.uncertain === null || threshold === scale.threshold ? null : uncertainWidth(scale);
    const given = `--threshold${threshold < 0 ? "=" : " "}${threshold}${width === null ? "" : ` --uncertain ${width}`}`;
    const command = `anomalib tiled predict --ckpt_dir ${scale.quoted_run} --data path/to/images ${given}`;
    const options = command.split(/ (?=--)/); // lines end between them
    byId("command-line").replaceChildren(
      ...options.flatMap((words, at) => [at === 0 ? "" : " ", el("span", {}, words)]),
    );
    byId("configuration-line").textContent =
      configurationOf(scale, threshold) + (width === null ? "" : `\n  uncertain: {width: ${width}}`);
    byId("configuration-note").textContent =
      scale.configured_by === "manual" ? "ManualThreshold decides about pixels too." : "";
  }
}

/** Give the lines of config.yaml. A sensitivity is 1 minus the threshold, with the same number of digits. */
function configurationOf(scale, threshold) {
  if (scale.configured_by === "manual") {
    return `thresholding:\n  method:\n    class_path: ManualThreshold\n    init_args:\n      value: ${threshold}`;
  }
  const digits = Math.min(20, (String(threshold).split(".")[1] ?? "").length);
  return `thresholding:\n  image_sensitivity: ${Number((1 - threshold).toFixed(digits))}`;
}
