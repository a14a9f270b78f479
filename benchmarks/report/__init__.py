"""From what was counted to what is said: figures, doubts, pages, tables, the gate.

figures   the arithmetic, and whether to believe it
document  the report: begun, written, read
machine   what was measured on
goals     what the relay set out to reach
compare   the gate: ratios against a baseline
page      the report as one HTML page
chart     its charts
cells     figures as text: blank where unknown
terminal  what a run says at the terminal
capacity  benchmarks/CAPACITY.md from measured costs
readme    the tables of README.md, all from one report
"""
