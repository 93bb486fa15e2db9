"""The page of `jfusion app`. It calls what the commands call; nothing is fused in a way of its own.

serve     the server: its address, its temporary folder, what may leave it
page      the page: its tabs in their order
words     the texts of the page in English and Chinese
methods   what can be chosen to fuse with
work      one job after another: fuses a pair and judges the result; no Gradio
*_tab     one tab each
"""
