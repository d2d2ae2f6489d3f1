import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { StationPage } from "./pages/StationPage";

const page = document.getElementById("page");
if (page !== null) {
  page.replaceChildren();
  render(<StationPage />, page);
}
