"use strict";

// light or dark: the system's choice until the reader makes one
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => { root.dataset.theme = dark.matches ? "dark" : "light"; };
follow();
dark.addEventListener("change", follow);
document.getElementById("theme").addEventListener("click", () => {
  dark.removeEventListener("change", follow);
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});

// unmaskings: one slider for all policies that answer a prompt, so that they race
for (const race of document.querySelectorAll(".race")) {
  const [slider, button, output] = ["input", "button", "output"].map((name) => race.querySelector(name));
  const tokens = [...race.querySelectorAll(".token")];
  const last = Number(slider.max);
  let timer = null;

  const show = (call) => {
    slider.value = call;
    output.textContent = `call ${call} of ${last}`;
    for (const token of tokens) {
      const at = Number(token.dataset.call);
      token.classList.toggle("masked", at > call);
      token.classList.toggle("new", at === call && timer !== null);
    }
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶ play";
    show(Number(slider.value));
  };
  slider.addEventListener("input", () => { stop(); });
  button.addEventListener("click", () => {
    if (timer !== null) { stop(); return; }
    button.textContent = "❚❚ pause";
    let call = Number(slider.value) >= last ? 0 : Number(slider.value);
    timer = setInterval(() => { if (call >= last) { stop(); } else { show(++call); } }, 550);
    show(call);
  });
}
