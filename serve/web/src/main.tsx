import { render } from "preact";
import { ChatApp } from "./chat_app";
import { Page } from "./page";
import { AppContext } from "./state";
import "./style/base.css";
import "./style/frame.css";
import "./style/exchange.css";
import "./style/prose.css";

const app = new ChatApp();
const place = document.getElementById("app");
if (!place) throw new Error("index.html has no #app");
render(<AppContext.Provider value={app}><Page /></AppContext.Provider>, place);
void app.start();
