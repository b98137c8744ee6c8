import { onLogin } from "./service.js";
import { startPlanning } from "./planning.js";
import { startTraining } from "./training.js";

const get = (id) => document.getElementById(id);
let entering = null;

onLogin(() => {
  entering ??= new Promise((resolve) => {
    get("login").showModal();
    get("login").addEventListener("cancel", (event) => event.preventDefault());
    get("login-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const answer = await fetch("api/v1/session", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ token: get("token").value.trim() }),
      });
      if (answer.ok) {
        get("token").value = "";
        get("login").close();
        entering = null;
        resolve();
      } else get("login-problem").textContent = (await answer.json()).detail;
    });
  });
  return entering;
});

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const code = get(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

startPlanning();
startTraining();
