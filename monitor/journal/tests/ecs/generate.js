// Picks the fields that Flowwarden uses from the published list: see README.md.
const fs = require("fs");
const { EcsFlat, EcsVersion } = require("@elastic/ecs");
const file = process.argv[2];
const used = Object.keys(JSON.parse(fs.readFileSync(file)).fields).concat(process.argv.slice(3)).sort();
const lines = used.map((name) => {
  const field = EcsFlat[name];
  if (!field) throw new Error(`${name} is no field of ECS ${EcsVersion}`);
  const picked = { type: field.type };
  if (field.normalize.includes("array")) picked.array = true;
  if (field.expected_values) picked.values = field.expected_values;
  if (field.allowed_values && name === "event.category") {
    picked.types = Object.fromEntries(field.allowed_values.map((value) => [value.name, value.expected_event_types]));
  } else if (field.allowed_values) {
    picked.values = field.allowed_values.map((value) => value.name);
  }
  return `    ${JSON.stringify(name)}: ${JSON.stringify(picked)}`;
});
fs.writeFileSync(file, `{\n  "version": "${EcsVersion}",\n  "fields": {\n${lines.join(",\n")}\n  }\n}\n`);
