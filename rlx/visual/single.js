// One episode at a time, chosen from a list, its numbers beside it: rlxSingle(element, data), data as in viewer.js.
"use strict";

const SINGLE = `
.rlx.single main { display: flex; }
.rlx.single main > canvas { flex: 1; min-width: 0; min-height: 0; cursor: grab; touch-action: none; }
.rlx.single aside { width: 270px; display: flex; flex-direction: column; }
.rlx.plain main > canvas { display: none; }
.rlx.single.plain aside { width: 100%; }
.rlx .score { padding: 6px 16px 10px; color: #aab4c5; }
.rlx .score b { display: block; font-size: 34px; line-height: 1.15; color: #e8ecf3; }
.rlx .strips { flex: 1; overflow: auto; }
.rlx .strips canvas { display: block; width: 100%; }
@media (max-width: 640px) {
  .rlx.single main { flex-direction: column; }
  .rlx.single aside { width: 100%; max-height: 40%; }
}`;

function rlxSingle(root, data) {
  root.className = "rlx single";
  root.innerHTML = `<style>${STYLE}${SINGLE}</style>
    <header><h1></h1><select aria-label="episode"></select></header>
    <main><canvas></canvas><aside><div class="score">return so far<b></b><span></span></div>
      <div class="strips"><canvas></canvas></div></aside></main>${CONTROLS}`;
  const find = (selector) => root.querySelector(selector);
  const chooser = find("header select"), stage = find("main > canvas");
  const viewer = data.geoms && robot(stage, data.geoms);
  if (viewer) viewer.steer(stage);
  root.classList.toggle("plain", !viewer);
  find("h1").textContent = heading(data, viewer);
  const choose = (index) => unroll(data.episodes[index], viewer);
  let shown = choose(0);

  function draw(moment) {
    const { reward, total, actions, observations, motion, last } = shown, now = Math.floor(moment);
    find(".score b").textContent = total.values[now].toFixed(1);
    find(".score span").textContent = `step ${now + 1} of ${last + 1}, ${(moment * data.dt).toFixed(1)} s`;
    if (viewer) {
      fit(stage, stage.clientHeight);
      viewer.draw(motion, moment);
    }
    drawStrips(find(".strips canvas"), [reward, ...actions, ...observations], moment);
  }

  data.episodes.forEach((episode, i) =>
    chooser.add(new Option(`${episode.label}: return ${episode.return?.toFixed(1) ?? "not a number"}`, i)));
  const restart = run(root, data.dt, () => ({ totals: [shown.total], last: shown.last }), draw);
  chooser.addEventListener("change", () => { shown = choose(chooser.value); restart(); });
}
