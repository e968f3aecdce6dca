// Swagger UI over every document of this server.
"use strict";

const place = document.getElementById("documents");
const here = new URL(".", location.href).href.replace(/\/$/, "");

// What is tried out here goes to where the page came from, whatever address the documents tell the rest of the world.
const triedOutHere = (original) => (text) => original(JSON.stringify({ ...JSON.parse(text), servers: [{ url: here }] }));

SwaggerUIBundle({
  domNode: place,
  urls: JSON.parse(place.dataset.documents),
  // The list writes its choice into the address.
  "urls.primaryName": new URLSearchParams(location.search).get("urls.primaryName"),
  layout: "StandaloneLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  plugins: [{ statePlugins: { spec: { wrapActions: { updateSpec: triedOutHere } } } }],
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
