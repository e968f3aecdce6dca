// Reads a list of OpenAPI documents from stdin and writes the list of their collections to stdout, both as JSON.
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import converter from "openapi-to-postmanv2";

const options = { parametersResolution: "Example", folderStrategy: "Tags", enableOptionalParameters: false };
const convert = promisify(converter.convertV2);

const collections = [];
for (const data of JSON.parse(readFileSync(0))) {
  const converted = await convert({ type: "json", data }, options);
  if (!converted.result) throw new Error(`${data.info.title}: ${converted.reason}`);
  collections.push(converted.output[0].data);
}
process.stdout.write(JSON.stringify(collections));
