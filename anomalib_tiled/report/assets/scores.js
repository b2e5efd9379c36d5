// Decisions by a threshold: verdicts, counts, rates, and thresholds that are the best by some rule.

const NORMAL = "normal";
const ANOMALOUS = "anomalous";
const UNKNOWN = "unknown";

/** What a decision comes to, by the truth. */
const OUTCOMES = {
  missed: { word: "Missed", many: "Missed", truth: ANOMALOUS, isAlarm: false, isWrong: true },
  false_alarm: { word: "False alarm", many: "False alarms", truth: NORMAL, isAlarm: true, isWrong: true },
  found: { word: "Found", many: "Found", truth: ANOMALOUS, isAlarm: true, isWrong: false },
  passed: { word: "Passed", many: "Passed", truth: NORMAL, isAlarm: false, isWrong: false },
  alarm: { word: "Alarm", many: "Alarms", truth: UNKNOWN, isAlarm: true, isWrong: false },
  quiet: { word: "No alarm", many: "No alarm", truth: UNKNOWN, isAlarm: false, isWrong: false },
};

function truthOf(image) {
  if (image.truth === null) return UNKNOWN;
  return image.truth ? ANOMALOUS : NORMAL;
}

/** An image in which the part is not found has no score, and is an alarm. Scores are in single precision. */
function isAlarm(image, threshold) {
  return image.score === null || image.score > Math.fround(threshold);
}

function outcomeOf(image, threshold) {
  const alarm = isAlarm(image, threshold);
  const truth = truthOf(image);
  return Object.keys(OUTCOMES).find((key) => OUTCOMES[key].truth === truth && OUTCOMES[key].isAlarm === alarm);
}

/** The uncertain scores: those of the run, or a band of the same width around another threshold. */
function bandAt(scale, threshold) {
  if (scale.uncertain === null || threshold === scale.threshold) return scale.uncertain;
  const half = uncertainWidth(scale) / 2;
  return [threshold - half, threshold + half];
}

function uncertainWidth(scale) {
  return Number((scale.uncertain[1] - scale.uncertain[0]).toPrecision(6));
}

function isUncertain(image, band) {
  return (
    band !== null && image.score !== null && image.score > Math.fround(band[0]) && image.score <= Math.fround(band[1])
  );
}

/** Number of images of each outcome, and for each truth how many are uncertain. */
function countOutcomes(images, threshold, band) {
  const counts = Object.fromEntries(Object.keys(OUTCOMES).map((key) => [key, 0]));
  const uncertain = { [NORMAL]: 0, [ANOMALOUS]: 0, [UNKNOWN]: 0 };
  for (const image of images) {
    counts[outcomeOf(image, threshold)] += 1;
    if (isUncertain(image, band)) uncertain[truthOf(image)] += 1;
  }
  return { ...counts, uncertain };
}

function share(part, whole) {
  return whole === 0 ? null : part / whole;
}

function ratesOf(counts) {
  const { found, missed, false_alarm: falseAlarms, passed } = counts;
  return {
    precision: share(found, found + falseAlarms),
    recall: share(found, found + missed),
    f1: share(2 * found, 2 * found + falseAlarms + missed),
    falseAlarmRate: share(falseAlarms, falseAlarms + passed),
    missRate: share(missed, found + missed),
  };
}

/** Expected cost of a part: prevalence is the share of defective ones on the line. */
function costOf(counts, prices) {
  const rates = ratesOf(counts);
  const { miss, falseAlarm, prevalence } = prices;
  return prevalence * miss * (rates.missRate ?? 0) + (1 - prevalence) * falseAlarm * (rates.falseAlarmRate ?? 0);
}

/** The range of scores: all of them, the threshold and its uncertain scores, with a margin at both ends. */
function rangeOf(images, scale) {
  const values = images.map((image) => image.score).filter((score) => score !== null);
  values.push(scale.threshold, ...(scale.uncertain ?? []));
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const margin = 0.04 * (high - low) || 0.05 * Math.abs(high) || 1;
  if (!scale.is_normalized) return [low - margin, high + margin];
  return [Math.max(0, low - margin), Math.min(1, high + margin)];
}

/** All thresholds that decide differently, from the lowest: the gap that each may lie in, and what it decides. */
function gapsBetween(images, range) {
  const scored = images.filter((image) => image.score !== null).sort((a, b) => a.score - b.score);
  const counts = countOutcomes(images, Number.NEGATIVE_INFINITY, null);
  const gaps = [];
  let low = range[0];
  for (const image of scored) {
    if (image.score > low) gaps.push({ low, high: image.score, counts: { ...counts } });
    low = image.score;
    counts[outcomeOf(image, Number.NEGATIVE_INFINITY)] -= 1;
    counts[outcomeOf(image, Number.POSITIVE_INFINITY)] += 1;
  }
  return [...gaps, { low, high: range[1], counts }];
}

/** Values that differ by less differ by rounding. */
const TIED = 1e-9;

/** The gap with the highest value; of equals, the widest, as scores of other images differ a little. */
function bestGap(gaps, value) {
  return gaps.reduce((best, gap) => {
    const difference = value(gap.counts) - value(best.counts);
    return difference > TIED || (difference > -TIED && gap.high - gap.low > best.high - best.low) ? gap : best;
  });
}

function thresholdIn(gap) {
  return shortestBetween(gap.low, gap.high);
}

function bestF1(gaps) {
  return bestGap(gaps, (counts) => ratesOf(counts).f1 ?? 0);
}

function leastCost(gaps, prices) {
  return bestGap(gaps, (counts) => -costOf(counts, prices));
}

/** The highest threshold that misses nothing. */
function noMiss(gaps) {
  return gaps.filter((gap) => gap.counts.missed === 0).at(-1) ?? gaps[0];
}

/** The lowest threshold with at most this share of false alarms, or with the fewest if none has so few. */
function atMostFalseAlarms(gaps, rate) {
  const fewest = ratesOf(gaps.at(-1).counts).falseAlarmRate;
  return gaps.find((gap) => ratesOf(gap.counts).falseAlarmRate <= Math.max(rate, fewest));
}

/** How far a score is on the wrong side of the threshold; below 0 on the right one. */
function wrongness(image, threshold) {
  const above = (image.score ?? Number.POSITIVE_INFINITY) - threshold;
  return image.truth === true ? -above : above;
}
