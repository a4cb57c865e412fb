const fs = require("fs"), path = require('path');
let settings = { uiPort: process.env.PORT || 1880, uiHost: "127.0.0.1", ...base };
settings.adminAuth = { type: "credentials", users: [{ username: "a", password: "$2b$08$" }], default: { permissions: "read" } };
if (process.env["X"]) { settings.https = { key: fs.readFileSync(path.join(__dirname, 'k.pem')) } }
module.exports = settings;
module.exports.editorTheme = { palette: { editable: !1 }, projects: { enabled: true } };
exports.functionGlobalContext = { os: require('os'), re: /[/'"]\//g, t: `a${`b${1}`}`, f: async (a) => ({ a }), get x() { return 1 } };
