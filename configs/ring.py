from ganjax.config import default_config


def get_config(arg: str = ""):
    config = default_config()
    return config
