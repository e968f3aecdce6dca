// Redoc over the one document that the page names.
import { init } from "./redoc.standalone.js";

// Redoc would load its makers' mark from them. An image from elsewhere fails here at once, and is left out.
const { src } = Object.getOwnPropertyDescriptors(HTMLImageElement.prototype);

function setSource(address) {
  const { origin, protocol } = new URL(address, document.baseURI);
  if (origin === location.origin || protocol === "data:") src.set.call(this, address);
  else queueMicrotask(() => this.dispatchEvent(new Event("error")));
}

Object.defineProperty(HTMLImageElement.prototype, "src", { ...src, set: setSource });
HTMLImageElement.prototype.setAttribute = function (name, value) {
  if (name === "src") this.src = value;
  else Element.prototype.setAttribute.call(this, name, value);
};

// Its search would make a worker out of text, which the page's policy forbids; without workers it searches here.
window.Worker = undefined;

const place = document.getElementById("document");
const answer = await fetch(place.dataset.url);

// Given the document and not its address, Redoc does not offer to open it at other companies.
init(await answer.json(), { disableTelemetry: true }, place);
