import PIL as PIL
import PIL.Image
import PIL.ImageDraw
import PIL.ImageEnhance
import PIL.ImageFilter
import PIL.ImageOps
import torch as torch

__all__ = ["PIL", "torch"]
