"""The projection onto privileged planes: PPP densities, SRM curves, and their exact nulls."""
