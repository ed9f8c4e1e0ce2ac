// Episodes side by side, under one clock and one camera: rlxGrid(element, data), data as in viewer.js.
"use strict";

const GRID = `
.rlx.grid main { display: grid; gap: 1px; overflow-y: auto; background: #39465c;
  grid-template-columns: repeat(var(--across), minmax(0, 1fr)); grid-auto-rows: minmax(300px, 1fr); }
.rlx .pane { display: flex; flex-direction: column; min-height: 0; background: #1c2330; }
.rlx .pane p { display: flex; align-items: baseline; gap: 10px; margin: 0; padding: 6px 12px; color: #aab4c5; }
.rlx .pane p b { flex: 1; color: #e8ecf3; font-weight: 600; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.rlx .pane p output { min-width: 4.5em; text-align: right; font-size: 20px; line-height: 1.2; color: #e8ecf3; }
.rlx .pane .stage { flex: 1; min-height: 0; overflow: hidden; position: relative; }
.rlx .pane .stage canvas { display: block; width: 100%; }
.rlx.robots .stage canvas { position: absolute; height: 100%; cursor: grab; touch-action: pan-y; }
.rlx.strips .stage { overflow-y: auto; }
.rlx .pane .bars { width: 100%; height: 64px; }
.rlx .pane.over .stage canvas { opacity: .45; }`;
const NARROW = 300; // a pane is never made narrower to have one more beside it

// The actions of this step as bars about 0, [-1, 1] from the bottom to the top.
function drawBars(canvas, actions, now) {
  const { context, width } = picture(canvas, 64), middle = 26, half = 18, start = 72;
  const cell = (width - start - 12) / actions.length;
  context.fillStyle = TEXT;
  context.fillText(actions.length > 1 ? "actions" : "action", 12, middle + 4);
  context.fillStyle = FAINT;
  context.fillRect(start, middle - 0.5, width - start - 12, 1);
  context.textAlign = "center";
  actions.forEach(({ values }, i) => {
    const x = start + i * cell, thick = Math.min(cell * 0.6, 28), value = Math.max(-1, Math.min(1, values[now]));
    context.fillStyle = LINE;
    context.fillRect(x + (cell - thick) / 2, middle - Math.max(value, 0) * half, thick, Math.abs(value) * half);
    context.fillStyle = TEXT;
    context.fillText(cell > 36 ? values[now].toFixed(2) : cell > 16 ? i + 1 : "", x + cell / 2, 60);
  });
}

function rlxGrid(root, data) {
  const hidden = document.createElement("canvas"), viewer = data.geoms && robot(hidden, data.geoms);
  root.className = `rlx grid ${viewer ? "robots" : "strips"}`;
  root.innerHTML = `<style>${STYLE}${GRID}</style><header><h1></h1></header><main></main>${CONTROLS}`;
  root.querySelector("h1").textContent = heading(data, viewer);
  const main = root.querySelector("main");
  const panes = data.episodes.map((episode) => {
    const element = document.createElement("section");
    element.className = "pane";
    element.innerHTML = `<p><b></b><span></span><output aria-label="return so far"></output></p>
      <div class="stage"><canvas></canvas></div><canvas class="bars"></canvas>`;
    main.append(element);
    const [name, step, total, stage, bars] = ["b", "span", "output", ".stage canvas", ".bars"].map((selector) =>
      element.querySelector(selector));
    name.textContent = name.title = episode.label;
    if (viewer) viewer.steer(stage);
    return { element, step, total, stage, bars, shown: unroll(episode, viewer) };
  });
  const count = panes.length, even = count === 4 ? 2 : Math.min(count, count <= 6 ? 3 : 4);

  function drawPane({ element, step, total, stage, bars, shown }, moment) {
    const mine = Math.min(moment, shown.last), now = Math.floor(mine);
    step.textContent = `step ${now + 1} of ${shown.last + 1}`;
    total.textContent = shown.total.values[now].toFixed(1);
    element.classList.toggle("over", moment > shown.last);
    drawBars(bars, shown.actions, now);
    if (!viewer) return drawStrips(stage, [shown.reward, ...shown.observations], mine);
    fit(stage, stage.clientHeight);
    if (hidden.width !== stage.width || hidden.height !== stage.height) {
      [hidden.width, hidden.height] = [stage.width, stage.height];
    }
    viewer.draw(shown.motion, mine);
    stage.getContext("2d").drawImage(hidden, 0, 0);
  }

  const seen = { totals: panes.map(({ shown }) => shown.total), last: Math.max(...panes.map(({ shown }) => shown.last)) };
  run(root, data.dt, () => seen, (moment) => {
    const room = Math.max(1, Math.floor(main.clientWidth / NARROW));
    main.style.setProperty("--across", Math.min(even, room));
    panes.forEach((pane) => drawPane(pane, moment));
  });
}
