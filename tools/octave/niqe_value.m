% LIVE's NIQE of a gray image (PNG) with a made-up pristine model.
function niqe_value(file)
  pkg load image
  addpath(fileparts(mfilename('fullpath')));  % before Octave's own imresize
  covariance = toeplitz(0.9 .^ (0:35));
  printf('\nvalues %.17g\n', computequality(imread(file), 96, 96, 0, 0, (1:36) / 20, covariance));
end
