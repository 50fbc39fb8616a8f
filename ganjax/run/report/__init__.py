"""The pages people look at: self-contained HTML, drawn by plotly, that opens offline."""
