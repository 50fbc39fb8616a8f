"""The HTML pages of runs: self-contained, drawn by plotly, readable offline."""
