from decoding.server.http import HTTPError as HTTPError
from decoding.server.request_parsing import StrategyRequest as StrategyRequest

__all__: list[str] = []
