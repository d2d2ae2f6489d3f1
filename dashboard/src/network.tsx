import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import "./network.css";
import { NetworkPage } from "./pages/NetworkPage";

const page = document.getElementById("page");
if (page !== null) {
  page.replaceChildren();
  render(<NetworkPage />, page);
}
