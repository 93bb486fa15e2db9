% The 36 features of LIVE's BRISQUE of a gray image (PNG).
function brisque_values(file)
  pkg load image
  addpath(fileparts(mfilename('fullpath')));  % before Octave's own imresize
  features = brisque_feature(double(imread(file)));  % it prints the time it took
  printf('\nvalues');
  printf(' %.17g', features);
  printf('\n');
end
