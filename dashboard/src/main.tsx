import "uplot/dist/uPlot.min.css";
import "./style.css";
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
