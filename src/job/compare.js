// SPDX-License-Identifier: MPL-2.0
// The players: pictures of all variants at the same time, for one scrubber.
const clips = JSON.parse(document.getElementById("pictures").textContent);
const players = document.getElementById("players");
const [play, scrubber, output, speed, shown] = ["play", "scrubber", "time", "speed", "shown"].map((id) =>
  document.getElementById(id));
const screens = [...players.querySelectorAll(".screen")].map((screen) => screen.querySelectorAll("img"));
const source = (picture) => "data:image/jpeg;base64," + picture;
const duration = Math.max(...clips.map((clip) => clip.pictures.length / clip.rate));
const step = Math.min(...clips.map((clip) => 1 / clip.rate));
let time = 0;
let before = null;

const at = (clip) => clip.pictures[Math.min(Math.floor(time * clip.rate + 1e-6), clip.pictures.length - 1)];

function show() {
  screens.forEach(([own, other], number) => {
    const picture = source(at(clips[number]));
    if (own.src !== picture) own.src = picture;
    if (shown.value === "difference") other.src = source(at(clips[0]));
  });
  scrubber.value = time / duration * 1000;
  output.textContent = time.toFixed(2) + " s";
}

function go(to) {
  time = Math.min(Math.max(to, 0), duration - step / 2);
  show();
}

function tick(now) {
  if (before === null) return;
  // A frame's time may lie before the click.
  const next = time + Math.max(now - before, 0) / 1000 * speed.value;
  before = now;
  time = next >= duration ? 0 : next;
  show();
  requestAnimationFrame(tick);
}

function set(isPlaying) {
  before = isPlaying ? performance.now() : null;
  play.textContent = isPlaying ? "Pause" : "Play";
  if (isPlaying) requestAnimationFrame(tick);
}

play.addEventListener("click", () => set(before === null));
scrubber.addEventListener("input", () => {
  set(false);
  go(scrubber.value / 1000 * duration);
});
shown.addEventListener("change", () => {
  players.classList.toggle("is-difference", shown.value === "difference");
  show();
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, button, a")) return;
  const steps = { ArrowLeft: -step, ArrowRight: step }[event.key];
  if (event.key === " ") set(before === null);
  else if (steps) {
    set(false);
    go(time + steps);
  } else return;
  event.preventDefault();
});
document.querySelector(".controls").hidden = false;
show();
