// Reads objects for a cluster as a JSON list; prints, for each, what its definition objects to (null: nothing).
import * as definitions from "@kubernetes-models/external-secrets/external-secrets.io/v1";
import { readFileSync } from "node:fs";

const said = JSON.parse(readFileSync(0, "utf8")).map((object) => {
  try {
    new definitions[object.kind](object).validate();
    return null;
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(said));
