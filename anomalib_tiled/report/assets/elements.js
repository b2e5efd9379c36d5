// Elements, and how numbers are written. Text from data only ever becomes a text node.

const byId = (id) => document.getElementById(id);

/** Make an element: attributes by name, listeners as `onclick`, children as text or elements; null is left out. */
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function option(value, text) {
  return el("option", { value }, text);
}

/** Write a score with as many digits as tell scores of this run apart. */
function scoreText(score) {
  if (score === null) return "–";
  const size = Math.abs(score);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return score.toExponential(3);
  return size < 10 ? score.toFixed(4) : score.toFixed(2);
}

function percentText(fraction) {
  return fraction === null ? "–" : `${(100 * fraction).toFixed(1)} %`;
}

function countText(number, one, several) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : several}`;
}

/** The shortest number between two others, in single precision too, near their middle; the lower one if none is. */
function shortestBetween(low, high) {
  const middle = low + (high - low) / 2;
  for (let digits = 0; digits <= 20; digits += 1) {
    const short = Number(middle.toFixed(digits));
    if (short > low && short < high && Math.fround(short) < high) return short;
  }
  return low;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Call a function once per frame, however often it is asked for. */
function oncePerFrame(task) {
  let isWaiting = false;
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => {
      isWaiting = false;
      task();
    });
  };
}

/** Copy the text of an element; where a browser forbids it, select the text instead. */
async function copyText(source, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch (error) {
    if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => {
    button.textContent = label;
  }, 1500);
}
