from icl.tasks.base import check_no_shared_image as check_no_shared_image
from icl.tasks.base import connected_components as connected_components
from icl.tasks.base import divide_by_group as divide_by_group
from icl.tasks.base import image_digests as image_digests
from icl.tasks.cell_values import RelativePaths as RelativePaths
from icl.tasks.cell_values import cell_images as cell_images
from icl.tasks.cell_values import exchange_of as exchange_of
from icl.tasks.cell_values import image_at_path as image_at_path
from icl.tasks.cell_values import image_keys as image_keys
from icl.tasks.cell_values import image_part as image_part
from icl.tasks.cell_values import parse_list as parse_list
from icl.tasks.cell_values import read_json_lines as read_json_lines
from icl.tasks.cell_values import text_of as text_of
from icl.tasks.cell_values import video_frames as video_frames
from icl.tasks.columns import ColumnMapping as ColumnMapping
from icl.tasks.columns import read_examples as read_examples
from icl.tasks.presets import PRESETS as PRESETS
from icl.tasks.source import IMAGES as IMAGES
from icl.tasks.source import SPLIT_COLUMN as SPLIT_COLUMN
from icl.tasks.source import DataSource as DataSource
from icl.tasks.source import encoded as encoded
from icl.tasks.source import former_id as former_id
from icl.tasks.source import open_source as open_source

__all__: list[str] = []
