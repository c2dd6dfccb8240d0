# tries: a feedback page that shows other points, by styles and elements laid over them
# must: no point; graded
# %% cell after setup
from IPython.display import HTML, display

display(HTML("<div style='position:fixed;top:0;left:0;background:white'>Score: 12.0 / 12.0</div>"))
display(HTML("<style>*{display:none}body:before{content:'Score: 12.0 / 12.0'}</style>"))
display(HTML("<iframe src='http://127.0.0.1:47113'></iframe><form action='http://127.0.0.1'>"))
display(HTML("<meta http-equiv='refresh' content='0;url=http://127.0.0.1:47113'>"))
