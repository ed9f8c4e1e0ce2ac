// Recorded episodes, and what every view of them shares: numbers as moving pictures, and the clock with its controls.
// Nothing is fetched. `data` is what rlx/viewer.py writes: {title, dt, geoms or null, episodes: [{label, return, rewards,
// actions, poses or observations}]} with arrays as {shape, data}, data being little-endian float32 in base64.
"use strict";

const STYLE = `
.rlx { display: flex; flex-direction: column; height: 100%; overflow: hidden; font: 14px/1.4 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; color: #e8ecf3; background: #1c2330; color-scheme: dark; }
.rlx header, .rlx footer { display: flex; align-items: center; gap: 12px; padding: 10px 16px; }
.rlx h1 { flex: 1; margin: 0; font-size: 15px; font-weight: 600; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.rlx main { flex: 1; min-height: 0; }
.rlx button, .rlx select { font: inherit; color: inherit; background: #2f3a4e; border: 0; border-radius: 6px;
  padding: 5px 10px; cursor: pointer; }
.rlx button { width: 44px; }
.rlx .scrub { flex: 1; position: relative; height: 44px; border-radius: 6px; }
.rlx .scrub > * { position: absolute; width: 100%; height: 100%; margin: 0; }
.rlx .scrub input { opacity: 0; cursor: pointer; }
.rlx :focus-visible, .rlx .scrub:focus-within { outline: 2px solid #6ea8fe; outline-offset: 1px; }`;

const LINE = "#6ea8fe", FAINT = "#39465c", TEXT = "#aab4c5", BRIGHT = "#e8ecf3";

function unpack(array) {
  const bytes = Uint8Array.from(atob(array.data), (c) => c.charCodeAt(0));
  return { shape: array.shape, values: new Float32Array(bytes.buffer) };
}

function columns(name, array) { // [T, N] as N rows with their range
  const count = array.shape[1] ?? 1;
  return Array.from({ length: count }, (_, k) => {
    const values = Array.from({ length: array.shape[0] }, (_, t) => array.values[t * count + k]);
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const pad = high > low ? 0 : 1; // a constant runs along the middle
    return { label: count > 1 ? `${name} ${k + 1}` : name, values, low: low - pad, high: high + pad };
  });
}

function unroll(episode, viewer) { // an episode as it is shown: rows of numbers, the return so far, the motion
  const rewards = unpack(episode.rewards), [reward] = columns("reward", rewards);
  let sum = 0;
  const [total] = columns("return", { shape: rewards.shape, values: rewards.values.map((r) => (sum += r)) });
  const actions = columns("action", unpack(episode.actions));
  const observations = episode.observations ? columns("observation", unpack(episode.observations)) : [];
  const motion = viewer && viewer.motion(unpack(episode.poses));
  return { reward, total, actions, observations, motion, last: reward.values.length - 1 };
}

// ---- numbers as moving pictures ------------------------------------------------------------------------------------

// As many pixels as the screen has; a canvas is only resized when it must be, since that throws its buffer away.
function fit(canvas, height) {
  const ratio = Math.min(window.devicePixelRatio, 2);
  const size = [Math.round(canvas.clientWidth * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  return ratio;
}

function picture(canvas, height) { // a cleared 2D context in CSS pixels
  const ratio = fit(canvas, height), width = canvas.clientWidth, context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.lineWidth = 1.5;
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "left";
  return { context, width };
}

function stroke(context, values, from, to, x, y, color) {
  context.strokeStyle = color;
  context.beginPath();
  for (let t = from; t <= to; t++) context.lineTo(x(t), y(values[t]));
  context.stroke();
}

// Each strip shows the last WINDOW steps, now at its right edge; as many strips side by side as there is room for.
const WINDOW = 120, TALL = 46, WIDE = 300;
function drawStrips(canvas, rows, moment) {
  const across = Math.max(1, Math.floor(canvas.clientWidth / WIDE)), height = Math.ceil(rows.length / across) * TALL;
  canvas.style.height = `${height}px`;
  const { context, width } = picture(canvas, height), now = Math.floor(moment);
  rows.forEach(({ label, values, low, high }, i) => {
    const start = ((i % across) * width) / across + 16, end = start + width / across - 34;
    const top = Math.floor(i / across) * TALL;
    const x = (t) => end - ((moment - t) * (end - start)) / WINDOW;
    const y = (value) => top + TALL - 6 - ((value - low) / (high - low)) * (TALL - 26);
    context.fillStyle = TEXT;
    context.textAlign = "left";
    context.fillText(label, start, top + 12);
    context.textAlign = "right";
    context.fillText(values[now].toFixed(2), end, top + 12);
    if (low < 0 && high > 0) stroke(context, [0, 0], 0, 1, (t) => start + t * (end - start), y, FAINT);
    stroke(context, values, Math.max(now - WINDOW, 0), now, x, y, LINE);
    context.fillStyle = LINE;
    context.beginPath();
    context.arc(x(now), y(values[now]), 3, 0, 7);
    context.fill();
  });
}

function drawScrubber(canvas, totals, last, moment) { // returns so far over the whole episodes, and where we are
  const { context, width } = picture(canvas, 44);
  const low = Math.min(...totals.map((total) => total.low)), high = Math.max(...totals.map((total) => total.high));
  const x = (t) => 4 + (t / Math.max(last, 1)) * (width - 8), y = (value) => 38 - ((value - low) / (high - low)) * 32;
  const all = (color) => totals.forEach(({ values }) => stroke(context, values, 0, values.length - 1, x, y, color));
  all(FAINT);
  context.save();
  context.beginPath();
  context.rect(0, 0, x(moment), 44);
  context.clip();
  all(LINE);
  context.restore();
  context.fillStyle = BRIGHT;
  context.fillRect(x(moment) - 1, 2, 2, 40);
}

// ---- the clock -----------------------------------------------------------------------------------------------------

const CONTROLS = `<footer><button aria-label="play or pause"></button>
  <div class="scrub"><canvas></canvas><input type="range" min="0" step="any" aria-label="time"></div>
  <select aria-label="speed">${[0.25, 0.5, 1, 2, 4].map((s) => `<option value="${s}">${s}×</option>`)}</select></footer>`;

// Plays what `shown()` returns, {totals, last}, frame by frame with draw(moment); what it returns begins again.
function run(root, dt, shown, draw) {
  const [button, scrub, speed, canvas] = ["button", "input", "footer select", ".scrub canvas"].map((selector) =>
    root.querySelector(selector));
  let moment = 0, playing = true, clock = performance.now();

  function play(on) {
    playing = on;
    button.textContent = on ? "❚❚" : "▶";
  }

  function tick(now) {
    const { totals, last } = shown(), step = playing ? (Math.max(now - clock, 0) / 1000 / dt) * speed.value : 0;
    moment = moment + step > last ? (playing && moment >= last ? 0 : last) : moment + step;
    clock = now;
    scrub.max = last;
    scrub.value = moment;
    draw(moment);
    drawScrubber(canvas, totals, last, moment);
    requestAnimationFrame(tick);
  }

  button.addEventListener("click", () => play(!playing));
  scrub.addEventListener("input", () => { moment = Number(scrub.value); play(false); });
  root.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target === button) return;
    event.preventDefault();
    play(!playing);
  });
  speed.value = 1;
  play(true);
  requestAnimationFrame(tick);
  return () => { moment = 0; };
}

function heading(data, viewer) {
  return data.title + (data.geoms && !viewer ? " (no robot: this browser lacks WebGL2)" : "");
}
