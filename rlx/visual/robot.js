// The robot in WebGL: robot(canvas, geoms) is null where the browser has no WebGL2. Otherwise motion(poses) prepares a
// recording, draw(motion, moment) fills the canvas, and steer(element) turns the one camera with the pointer there.
// Geoms are as rlx.envs.base.Renderable describes them. Vectors are arrays, quaternions [w, x, y, z], z is up.
"use strict";

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

// ---- shaders and programs ------------------------------------------------------------------------------------------

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

// ---- the scene -----------------------------------------------------------------------------------------------------

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
  const moving = [...geoms.keys()].filter((i) => geoms[i].link >= 0);
  const reach = geoms.map(({ shape, size }) => (shape === "capsule" ? size[0] + size[1] : Math.hypot(...size)));
  const camera = { yaw: -2.2, pitch: 0.3, zoom: 1 };

  function motion(poses) {
    const frames = Array.from({ length: poses.shape[0] }, (_, t) => {
      const placed = place(geoms, poses, t);
      return moving.map((i) => ({ p: placed[i].p, reach: reach[i] }));
    });
    const middles = frames.map((parts) => box(parts.map(({ p }) => p)).middle), all = box(middles);
    const radius = (parts, middle) => Math.max(...parts.map(({ p, reach }) => Math.hypot(...sub(p, middle)) + reach));
    const stays = all.extent < 1.5 * radius(frames[0], middles[0]);
    const centres = middles.map((_, t) => { // following, a mean over time: the camera should not shake with every stride
      const near = middles.slice(Math.max(t - 12, 0), t + 13);
      return stays ? all.middle : scale(near.reduce(add), 1 / near.length);
    });
    const radii = frames.map((parts, t) => radius(parts, centres[t])).sort((a, b) => a - b);
    const size = radii[Math.floor((radii.length - 1) * (stays ? 1 : 0.9))]; // a fall may leave the picture for a moment
    const low = frames.flat().reduce((z, { p, reach }) => Math.min(z, p[2] - reach), Infinity);
    return { poses, centres, size, ground: plane ? plane.position[2] : low };
  }

  function look(target, { size, ground }) { // where the eye is, how it is turned, and the matrix from the world to the picture
    const flat = Math.cos(camera.pitch);
    const back = [flat * Math.cos(camera.yaw), flat * Math.sin(camera.yaw), Math.sin(camera.pitch)];
    const right = unit(cross([0, 0, 1], back)), up = cross(back, right);
    const eye = add(target, scale(back, 2.3 * size * camera.zoom));
    eye[2] = Math.max(eye[2], ground + 0.05 * size);
    const aspect = canvas.width / canvas.height, wide = 0.5 * Math.max(aspect, 1), high = wide / aspect;
    const near = 0.05 * size, far = 200 * size;
    const turn = [right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
      -dot(right, eye), -dot(up, eye), -dot(back, eye), 1];
    const lens = [1 / wide, 0, 0, 0, 0, 1 / high, 0, 0, 0, 0, (near + far) / (near - far), -1,
      0, 0, (2 * near * far) / (near - far), 0];
    return { eye, right: scale(right, wide), up: scale(up, high), forward: scale(back, -1), view: multiply(lens, turn) };
  }

  function draw(motion, moment) {
    const { poses, centres, size, ground } = motion;
    const before = Math.floor(moment), after = Math.min(before + 1, centres.length - 1);
    const seen = look(mix(centres[before], centres[after], moment - before), motion);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT | gl.STENCIL_BUFFER_BIT);
    for (const part of [world, body]) {
      part.use();
      part.matrix("view", seen.view);
      part.vector("eye", seen.eye);
      part.number("ground", ground);
      part.number("cell", 2 ** Math.round(Math.log2(size)));
    }
    world.use();
    for (const axis of ["right", "up", "forward"]) world.vector(axis, seen[axis]);
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

  function steer(element) {
    element.addEventListener("pointerdown", (event) => element.setPointerCapture(event.pointerId));
    element.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      camera.yaw -= event.movementX * 0.008;
      camera.pitch = Math.min(1.5, Math.max(-0.1, camera.pitch + event.movementY * 0.008));
    });
    element.addEventListener("wheel", (event) => { // in a page that scrolls, only with the key for it
      if (document.documentElement.scrollHeight > window.innerHeight && !event.ctrlKey) return;
      event.preventDefault();
      camera.zoom = Math.min(8, Math.max(0.3, camera.zoom * Math.exp(event.deltaY * 0.001)));
    }, { passive: false });
  }

  return { motion, draw, steer };
}
