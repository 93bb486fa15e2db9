% Every published MATLAB metric of one triple, printed as "name value". A, B, F: PNG files.
function values(a_file, b_file, f_file, small)
  pkg load image signal
  a = imread(a_file); b = imread(b_file); f = imread(f_file);
  vifb = {'Avg_gradient', 'Cross_entropy', 'Edge_intensity', 'Entropy', 'Mutinf', 'Psnr', ...
          'Qabf', 'Qcb', 'Qcv', 'Rmse', 'Spatial_frequency', 'Ssim', 'Variance'};
  for i = 1:numel(vifb)
    show(['vifb.' vifb{i}], @() feval(['metrics' vifb{i}], a, b, f));
  end
  x = double(a); y = double(b); z = double(f);
  show('NMI', @() metricMI(x, y, z, 1));
  show('Nabf', @() analysis_nabf(z, x, y));
  cut = @(w) w(1:small(1), 1:small(2));
  show('FMI_pixel', @() analysis_fmi(cut(x), cut(y), cut(z), 'none'));
  show('FMI_dct', @() analysis_fmi(cut(x), cut(y), cut(z), 'dct'));
end

function show(name, compute)
  try
    printf('%s %.17g\n', name, real(compute()));
  catch problem
    printf('%s failed: %s\n', name, strrep(problem.message, char(10), ' '));
  end
end
