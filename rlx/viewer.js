// Plays recorded episodes: rlxView(element, data) builds a robot in WebGL, strips of numbers and the controls.
// Nothing is fetched. `data` is what rlx/report.py writes: {title, dt, geoms or null, episodes: [{return, rewards,
// actions, poses or observations}]} with arrays as {shape, data}, data being little-endian float32 in base64.
"use strict";

const STYLE = `
.rlx { display: flex; flex-direction: column; height: 100%; overflow: hidden; color: #e8ecf3; background: #1c2330; color-scheme: dark;
  font: 14px/1.4 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.rlx header, .rlx footer { display: flex; align-items: center; gap: 12px; padding: 10px 16px; }
.rlx h1 { flex: 1; margin: 0; font-size: 15px; font-weight: 600; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.rlx main { flex: 1; display: flex; min-height: 0; }
.rlx main > canvas { flex: 1; min-width: 0; min-height: 0; cursor: grab; touch-action: none; }
.rlx aside { width: 270px; display: flex; flex-direction: column; }
.rlx.plain main > canvas { display: none; }
.rlx.plain aside { width: 100%; }
.rlx .score { padding: 6px 16px 10px; color: #aab4c5; }
.rlx .score b { display: block; font-size: 34px; line-height: 1.15; color: #e8ecf3; }
.rlx .strips { flex: 1; overflow: auto; }
.rlx .strips canvas { display: block; width: 100%; }
.rlx button, .rlx select { font: inherit; color: inherit; background: #2f3a4e; border: 0; border-radius: 6px;
  padding: 5px 10px; cursor: pointer; }
.rlx button { width: 44px; }
.rlx .scrub { flex: 1; position: relative; height: 44px; border-radius: 6px; }
.rlx .scrub > * { position: absolute; width: 100%; height: 100%; margin: 0; }
.rlx .scrub input { opacity: 0; cursor: pointer; }
.rlx :focus-visible, .rlx .scrub:focus-within { outline: 2px solid #6ea8fe; outline-offset: 1px; }
@media (max-width: 640px) { .rlx main { flex-direction: column; } .rlx aside { width: 100%; max-height: 40%; } }`;

const LINE = "#6ea8fe", FAINT = "#39465c", TEXT = "#aab4c5";

// ---- numbers -------------------------------------------------------------------------------------------------------

function unpack(array) {
  const bytes = Uint8Array.from(atob(array.data), (c) => c.charCodeAt(0));
  return { shape: array.shape, values: new Float32Array(bytes.buffer) };
}

const add = (a, b) => a.map((x, i) => x + b[i]);
const sub = (a, b) => a.map((x, i) => x - b[i]);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const scale = (a, s) => a.map((x) => x * s);
const mix = (a, b, share) => a.map((x, i) => x + (b[i] - x) * share);
const unit = (a) => scale(a, 1 / (Math.hypot(...a) || 1));

function rotate([w, ...v], p) {
  const t = scale(cross(v, p), 2);
  return add(add(p, scale(t, w)), cross(v, t));
}

function product([aw, ...a], [bw, ...b]) {
  return [aw * bw - dot(a, b), ...add(add(scale(b, aw), scale(a, bw)), cross(a, b))];
}

function pose(p, q) { // column-major 4 x 4
  const x = rotate(q, [1, 0, 0]), y = rotate(q, [0, 1, 0]), z = rotate(q, [0, 0, 1]);
  return [...x, 0, ...y, 0, ...z, 0, ...p, 1];
}

function multiply(a, b) {
  const out = new Array(16).fill(0);
  for (let c = 0; c < 4; c++)
    for (let r = 0; r < 4; r++)
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
  return out;
}

// As many pixels as the screen has; a canvas is only resized when it must be, since that throws its buffer away.
function fit(canvas, height) {
  const ratio = Math.min(window.devicePixelRatio, 2);
  const size = [Math.round(canvas.clientWidth * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  return ratio;
}

// ---- shapes: triangles as [x, y, z, nx, ny, nz] rows, in MuJoCo's half sizes ---------------------------------------

// A surface of revolution about z from a profile of [radius, z, normal radius, normal z] points.
function revolve(profile, segments = 32) {
  const vertex = ([r, z, nr, nz], s) => {
    const c = Math.cos((2 * Math.PI * s) / segments), d = Math.sin((2 * Math.PI * s) / segments);
    return [r * c, r * d, z, nr * c, nr * d, nz];
  };
  const out = [];
  for (let i = 0; i + 1 < profile.length; i++)
    for (let s = 0; s < segments; s++) {
      const [a, b] = [vertex(profile[i], s), vertex(profile[i], s + 1)];
      const [c, d] = [vertex(profile[i + 1], s), vertex(profile[i + 1], s + 1)];
      out.push(...a, ...b, ...c, ...c, ...b, ...d);
    }
  return out;
}

function arc(radius, centre, from, to, steps = 10) {
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = from + ((to - from) * i) / steps;
    return [radius * Math.cos(angle), centre + radius * Math.sin(angle), Math.cos(angle), Math.sin(angle)];
  });
}

const QUARTER = Math.PI / 2;
const SHAPES = {
  sphere: ([r]) => revolve(arc(r, 0, -QUARTER, QUARTER, 20)),
  capsule: ([r, h]) => revolve([...arc(r, -h, -QUARTER, 0), ...arc(r, h, 0, QUARTER)]),
  cylinder: ([r, h]) => [
    ...revolve([[0, -h, 0, -1], [r, -h, 0, -1]]), ...revolve([[r, -h, 1, 0], [r, h, 1, 0]]),
    ...revolve([[r, h, 0, 1], [0, h, 0, 1]]),
  ],
  ellipsoid: (size) => { // a unit sphere stretched; normals shrink where positions stretch
    const out = SHAPES.sphere([1]);
    for (let i = 0; i < out.length; i += 6) {
      const p = out.slice(i, i + 3);
      out.splice(i, 6, ...p.map((x, k) => x * size[k]), ...unit(p.map((x, k) => x / size[k])));
    }
    return out;
  },
  box: (size) => {
    const out = [];
    for (let axis = 0; axis < 3; axis++)
      for (const side of [-1, 1])
        for (const [u, v] of [[-1, -1], [1, -1], [-1, 1], [-1, 1], [1, -1], [1, 1]]) {
          const p = [0, 0, 0], n = [0, 0, 0];
          p[axis] = n[axis] = side;
          p[(axis + 1) % 3] = u;
          p[(axis + 2) % 3] = v;
          out.push(...p.map((x, i) => x * size[i]), ...n);
        }
    return out;
  },
};

// ---- the robot in WebGL --------------------------------------------------------------------------------------------

const SUN = unit([0.15, -0.75, 1.1]);
const COMMON = `#version 300 es
  precision highp float;
  uniform mat4 view; uniform vec3 eye; uniform float ground, cell;
  const vec3 sun = vec3(${SUN.map((x) => x.toFixed(5))});
  vec3 sky(float up) { return mix(vec3(.80, .86, .93), vec3(.38, .56, .80), smoothstep(0., .6, up)); }
  vec3 shown(vec3 linear) { return pow(linear, vec3(1. / 2.2)); }`;

const ROBOT_VERTEX = `${COMMON}
  layout(location = 0) in vec3 position; layout(location = 1) in vec3 normal;
  uniform mat4 model; uniform bool shadow; out vec3 world, facing;
  void main() {
    world = (model * vec4(position, 1)).xyz;
    facing = mat3(model) * normal;
    if (shadow) { world -= sun * (max(world.z - ground, 0.) / sun.z); world.z = ground; }
    gl_Position = view * vec4(world, 1);
  }`;
const ROBOT_FRAGMENT = `${COMMON}
  in vec3 world, facing; uniform vec3 color; uniform bool shadow; out vec4 pixel;
  void main() {
    if (shadow) { pixel = vec4(vec3(.55, .58, .66), 1); return; }
    vec3 n = normalize(facing), to = normalize(eye - world), base = pow(color, vec3(2.2));
    float diffuse = max(dot(n, sun), 0.), near = smoothstep(0., cell * .6, world.z - ground);
    float shine = pow(max(dot(n, normalize(sun + to)), 0.), 60.), rim = pow(1. - max(dot(n, to), 0.), 4.);
    vec3 ambient = mix(vec3(.26, .25, .26) * (.4 + .6 * near), vec3(.42, .48, .58), n.z * .5 + .5);
    vec3 light = base * 1.2 * (ambient + diffuse * vec3(1.35, 1.28, 1.12));
    pixel = vec4(shown(light / (1. + .55 * light) + .15 * shine + .06 * rim), 1);
  }`;
// One triangle over the whole picture: the ground where the pixel's ray meets it, else the sky.
const WORLD_VERTEX = `${COMMON}
  uniform vec3 right, up, forward; out vec3 far;
  void main() {
    vec2 corner = vec2(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1);
    far = forward + right * corner.x + up * corner.y;
    gl_Position = vec4(corner, 1, 1);
  }`;
const WORLD_FRAGMENT = `${COMMON}
  in vec3 far; out vec4 pixel;
  void main() {
    vec3 ray = normalize(far);
    pixel = vec4(sky(ray.z), 1);
    float distance = (ground - eye.z) / ray.z;
    vec2 at = (eye.xy + ray.xy * distance) / cell, width = max(fwidth(at), 1e-4);
    if (distance <= 0.) return;
    vec2 square = abs(fract(at * .5 + .25) - .5) * 2. - .5; // its sign changes at every whole number
    vec2 soft = clamp(square / width, -.5, .5) * clamp(.7 / width, 0., 1.);
    vec2 line = 1. - smoothstep(width * .5, width * 1.5, abs(fract(at + .5) - .5));
    float check = soft.x * soft.y * 2. + .5;
    vec3 floor = mix(vec3(.50, .58, .67), vec3(.64, .71, .78), check);
    floor = mix(floor, vec3(.86, .90, .95), .6 * max(line.x, line.y) * clamp(.12 / max(width.x, width.y), 0., 1.));
    pixel.rgb = mix(floor, sky(0.), smoothstep(6. * cell, 45. * cell, distance));
  }`;

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  const place = (name) => gl.getUniformLocation(made, name);
  return {
    use: () => gl.useProgram(made),
    matrix: (name, value) => gl.uniformMatrix4fv(place(name), false, value),
    vector: (name, value) => gl.uniform3fv(place(name), value),
    number: (name, value) => gl.uniform1f(place(name), value),
    flag: (name, value) => gl.uniform1i(place(name), value),
  };
}

function box(points) {
  const sides = [0, 1, 2].map((k) => {
    const along = points.map((p) => p[k]);
    return [Math.min(...along), Math.max(...along)];
  });
  const extent = Math.hypot(...sides.map(([low, high]) => (high - low) / 2));
  return { middle: sides.map(([low, high]) => (low + high) / 2), extent };
}

// Where each geom is at a moment between two frames: links move on a line and turn the short way.
function place(geoms, poses, moment) {
  const [frames, links] = poses.shape, frame = Math.floor(moment), next = Math.min(frame + 1, frames - 1);
  const link = (f, i) => [...poses.values.subarray((f * links + i) * 7, (f * links + i + 1) * 7)];
  return geoms.map((geom) => {
    if (geom.link < 0) return { p: geom.position, q: geom.rotation };
    const a = link(frame, geom.link), b = link(next, geom.link);
    const [from, to] = [a.slice(3), b.slice(3)];
    const p = mix(a.slice(0, 3), b.slice(0, 3), moment - frame);
    const q = unit(mix(from, dot(from, to) < 0 ? scale(to, -1) : to, moment - frame));
    return { p: add(p, rotate(q, geom.position)), q: product(q, geom.rotation) };
  });
}

function robot(canvas, scene) {
  const gl = canvas.getContext("webgl2", { antialias: true, stencil: true });
  if (!gl) return null;
  const plane = scene.find((geom) => geom.shape === "plane");
  const geoms = scene.filter((geom) => geom.shape !== "plane");
  const meshes = geoms.map((geom) => {
    const vertices = new Float32Array(SHAPES[geom.shape](geom.size)), array = gl.createVertexArray();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, vertices, gl.STATIC_DRAW);
    for (const slot of [0, 1]) {
      gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, 3, gl.FLOAT, false, 24, 12 * slot);
    }
    return { array, count: vertices.length / 6 };
  });
  const world = program(gl, WORLD_VERTEX, WORLD_FRAGMENT), body = program(gl, ROBOT_VERTEX, ROBOT_FRAGMENT);
  const moving = geoms.map((geom, i) => i).filter((i) => geoms[i].link >= 0);
  const reach = geoms.map((geom) => Math.hypot(...geom.size));
  const camera = { yaw: -2.2, pitch: 0.3, zoom: 1 };
  let poses, centres, size, ground;

  function load(recorded) {
    poses = recorded;
    const frames = Array.from({ length: poses.shape[0] }, (_, t) => {
      const placed = place(geoms, poses, t);
      return moving.map((i) => ({ p: placed[i].p, reach: reach[i] }));
    });
    const middles = frames.map((parts) => box(parts.map(({ p }) => p)).middle), all = box(middles);
    const radius = (parts, middle) => Math.max(...parts.map(({ p, reach }) => Math.hypot(...sub(p, middle)) + reach));
    const stays = all.extent < 1.5 * radius(frames[0], middles[0]);
    centres = middles.map((_, t) => { // following, a mean over time: the camera should not shake with every stride
      const near = middles.slice(Math.max(t - 12, 0), t + 13);
      return stays ? all.middle : scale(near.reduce(add), 1 / near.length);
    });
    size = frames.reduce((most, parts, t) => Math.max(most, radius(parts, centres[t])), 0);
    const low = frames.flat().reduce((z, { p, reach }) => Math.min(z, p[2] - reach), Infinity);
    ground = plane ? plane.position[2] : low;
  }

  function draw(moment) {
    fit(canvas, canvas.clientHeight);
    const before = Math.floor(moment), after = Math.min(before + 1, centres.length - 1);
    const target = mix(centres[before], centres[after], moment - before);
    const flat = Math.cos(camera.pitch);
    const back = [flat * Math.cos(camera.yaw), flat * Math.sin(camera.yaw), Math.sin(camera.pitch)];
    const right = unit(cross([0, 0, 1], back)), up = cross(back, right);
    const eye = add(target, scale(back, 3 * size * camera.zoom));
    eye[2] = Math.max(eye[2], ground + 0.05 * size);
    const aspect = canvas.width / canvas.height, wide = Math.max(0.5, 0.5 / aspect) * aspect, high = wide / aspect;
    const near = 0.05 * size, far = 200 * size;
    const look = [right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
      -dot(right, eye), -dot(up, eye), -dot(back, eye), 1];
    const lens = [1 / wide, 0, 0, 0, 0, 1 / high, 0, 0, 0, 0, (near + far) / (near - far), -1,
      0, 0, (2 * near * far) / (near - far), 0];

    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT | gl.STENCIL_BUFFER_BIT);
    for (const part of [world, body]) {
      part.use();
      part.matrix("view", multiply(lens, look));
      part.vector("eye", eye);
      part.number("ground", ground);
      part.number("cell", 2 ** Math.round(Math.log2(size)));
    }
    world.use();
    world.vector("right", scale(right, wide));
    world.vector("up", scale(up, high));
    world.vector("forward", scale(back, -1));
    gl.disable(gl.DEPTH_TEST);
    gl.drawArrays(gl.TRIANGLES, 0, 3);

    body.use();
    const models = place(geoms, poses, moment).map(({ p, q }) => pose(p, q));
    const drawAll = () => models.forEach((model, i) => {
      body.matrix("model", model);
      body.vector("color", geoms[i].color);
      gl.bindVertexArray(meshes[i].array);
      gl.drawArrays(gl.TRIANGLES, 0, meshes[i].count);
    });
    // Shadows darken the ground once, however many geoms lie over each other: the stencil counts.
    gl.enable(gl.STENCIL_TEST);
    gl.stencilFunc(gl.EQUAL, 0, 255);
    gl.stencilOp(gl.KEEP, gl.KEEP, gl.INCR);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.DST_COLOR, gl.ZERO);
    body.flag("shadow", 1);
    drawAll();
    gl.disable(gl.BLEND);
    gl.disable(gl.STENCIL_TEST);
    gl.enable(gl.DEPTH_TEST);
    body.flag("shadow", 0);
    drawAll();
  }

  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    camera.yaw -= event.movementX * 0.008;
    camera.pitch = Math.min(1.5, Math.max(-0.1, camera.pitch + event.movementY * 0.008));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    camera.zoom = Math.min(8, Math.max(0.3, camera.zoom * Math.exp(event.deltaY * 0.001)));
  }, { passive: false });
  return { load, draw };
}

// ---- numbers as moving strips, and the scrubber --------------------------------------------------------------------

function picture(canvas, height) { // a cleared 2D context in CSS pixels
  const ratio = fit(canvas, height), width = canvas.clientWidth, context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.lineWidth = 1.5;
  context.font = "12px system-ui, sans-serif";
  return { context, width };
}

function stroke(context, values, from, to, x, y, color) {
  context.strokeStyle = color;
  context.beginPath();
  for (let t = from; t <= to; t++) context.lineTo(x(t), y(values[t]));
  context.stroke();
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

// Each strip shows the last WINDOW steps, now at its right edge; as many strips side by side as there is room for.
const WINDOW = 120, TALL = 46, WIDE = 240;
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

function drawScrubber(canvas, total, moment) { // the return so far over the whole episode, and where we are
  const { context, width } = picture(canvas, 44), last = Math.max(total.values.length - 1, 1);
  const x = (t) => 4 + (t / last) * (width - 8);
  const y = (value) => 38 - ((value - total.low) / (total.high - total.low)) * 32;
  stroke(context, total.values, 0, last, x, y, FAINT);
  context.save();
  context.rect(0, 0, x(moment), 44);
  context.clip();
  stroke(context, total.values, 0, last, x, y, LINE);
  context.restore();
  context.fillStyle = "#e8ecf3";
  context.fillRect(x(moment) - 1, 2, 2, 40);
}

// ---- the page ------------------------------------------------------------------------------------------------------

function rlxView(root, data) {
  root.className = "rlx";
  root.innerHTML = `<style>${STYLE}</style>
    <header><h1></h1><select aria-label="episode"></select></header>
    <main><canvas></canvas><aside><div class="score">return so far<b></b><span></span></div>
      <div class="strips"><canvas></canvas></div></aside></main>
    <footer><button aria-label="play or pause"></button>
      <div class="scrub"><canvas></canvas><input type="range" min="0" step="any" aria-label="time"></div>
      <select aria-label="speed">${[0.25, 0.5, 1, 2, 4].map((s) => `<option value="${s}">${s}×</option>`)}</select>
    </footer>`;
  const find = (selector) => root.querySelector(selector);
  const [button, scrub, speed, chooser] = ["button", "input", "footer select", "header select"].map(find);
  const viewer = data.geoms && robot(find("main > canvas"), data.geoms);
  root.classList.toggle("plain", !viewer);
  find("h1").textContent = data.title + (data.geoms && !viewer ? " (no robot: this browser lacks WebGL2)" : "");
  let film, moment = 0, playing = true, clock = performance.now();

  function choose(index) {
    const episode = data.episodes[index], rewards = unpack(episode.rewards);
    const [reward] = columns("reward", rewards);
    let sum = 0;
    const [total] = columns("return", { shape: rewards.shape, values: rewards.values.map((r) => (sum += r)) });
    const rows = [reward, ...columns("action", unpack(episode.actions))];
    if (episode.observations) rows.push(...columns("observation", unpack(episode.observations)));
    if (viewer) viewer.load(unpack(episode.poses));
    film = { rows, total, last: reward.values.length - 1 };
    scrub.max = film.last;
    moment = 0;
  }

  function play(on) {
    playing = on;
    button.textContent = on ? "❚❚" : "▶";
  }

  function tick(now) {
    const step = playing ? (Math.max(now - clock, 0) / 1000 / data.dt) * speed.value : 0;
    moment = moment + step > film.last ? (playing && moment >= film.last ? 0 : film.last) : moment + step;
    clock = now;
    scrub.value = moment;
    find(".score b").textContent = film.total.values[Math.floor(moment)].toFixed(1);
    const time = (moment * data.dt).toFixed(1);
    find(".score span").textContent = `step ${Math.floor(moment) + 1} of ${film.last + 1}, ${time} s`;
    if (viewer) viewer.draw(moment);
    drawStrips(find(".strips canvas"), film.rows, moment);
    drawScrubber(find(".scrub canvas"), film.total, moment);
    requestAnimationFrame(tick);
  }

  data.episodes.forEach((episode, i) =>
    chooser.add(new Option(`episode ${i + 1}: return ${episode.return.toFixed(1)}`, i)));
  chooser.addEventListener("change", () => choose(chooser.value));
  button.addEventListener("click", () => play(!playing));
  scrub.addEventListener("input", () => { moment = Number(scrub.value); play(false); });
  root.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target === button) return;
    event.preventDefault();
    play(!playing);
  });
  speed.value = 1;
  play(true);
  choose(0);
  requestAnimationFrame(tick);
}
