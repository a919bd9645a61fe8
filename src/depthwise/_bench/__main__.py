from .cli import app

app(prog_name="depthwise bench")
