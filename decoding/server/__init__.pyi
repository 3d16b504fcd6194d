from decoding.server.http import LOADING as LOADING
from decoding.server.http import HTTPError as HTTPError
from decoding.server.http import TrackedSend as TrackedSend
from decoding.server.request_parsing import CONFIG_KEY as CONFIG_KEY
from decoding.server.request_parsing import StrategyRequest as StrategyRequest
from decoding.server.strategy_server import Placement as Placement
from decoding.server.strategy_server import StrategyServer as StrategyServer

__all__: list[str] = []
