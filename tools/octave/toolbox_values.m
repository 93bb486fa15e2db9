% Metrics of Z. Liu's toolbox of one triple, printed as "name value". A, B, F: PNG files.
function toolbox_values(a_file, b_file, f_file)
  pkg load image
  a = double(imread(a_file)); b = double(imread(b_file)); f = double(imread(f_file));
  show('Qy', @() metricYang(a, b, f));
  show('Qs', @() metricPeilla(a, b, f, 1));
  show('Qw', @() metricPeilla(a, b, f, 2));
  show('Qe', @() metricPeilla(a, b, f, 3));
  show('Qp', @() metricZhao(a, b, f));
end

function show(name, compute)
  try
    value = compute();
    printf('\n%s %.17g\n', name, real(value));
  catch problem
    printf('\n%s failed: %s\n', name, strrep(problem.message, char(10), ' '));
  end
end
