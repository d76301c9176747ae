import "uplot/dist/uPlot.min.css";
import "./style/base.css";
import "./style/figures.css";
import "./style/fleet.css";
import "./style/device.css";
import "./style/inspector.css";
import "./style/dialog.css";
import "./style/narrow.css";
import { render } from "preact";
import { watchDemo } from "./demo";
import { watchFleet } from "./fleet";
import { start } from "./link";
import "./theme";
import { App } from "./view/app";

watchFleet();
void watchDemo();
start();
render(<App />, document.getElementById("app")!);
