"""The page of `jfusion app`. It calls what the commands call; nothing is fused in a way of its own.

serve     the server: its address, its temporary folder, what may leave it
page      the page: its tabs in their order
words     the texts of the page in English and Chinese
methods   what can be chosen to fuse with
work      one job after another: fuses a pair and judges the result; no Gradio
main_thread  where Jittor is imported
examples  pairs to try it with
archive   zip files that come in and go out
*_tab     one tab each; folder_job is what runs behind the tab Folder
"""
